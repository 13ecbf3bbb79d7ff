"""Frozen but for some layers and names: what is trained, what an export holds, what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exports import FACTS
from fakes import make_recipe, make_tokenizer
from families import GPT2, LLAMA, TIED
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.errors import ModelError
from raysft.model.export import export_run
from raysft.model.load import load_model
from raysft.model.methods import apply_method, step_acts
from raysft.model.trained import trained_parameters


def trained_by(fields: dict[str, Any], **method: Any) -> set[str]:
    recipe = make_recipe(model={"source": "random", "config": fields}, method={"kind": "freeze", **method})
    return set(trained_parameters(apply_method(load_model(recipe, vocab_size=264), recipe)))


@pytest.mark.parametrize(("fields", "prefix"), [(LLAMA, "model.layers"), (GPT2, "transformer.h")])
def test_last_and_first_layers(fields: dict[str, Any], prefix: str) -> None:
    last, first, both = (trained_by(fields, layers=layers) for layers in (1, -1, 2))
    assert last
    assert all(name.startswith(f"{prefix}.1.") for name in last)
    assert all(name.startswith(f"{prefix}.0.") for name in first)
    assert last | first == both


@pytest.mark.parametrize(
    ("layers", "expected"), [("1-2", {1, 2}), ("0, 3", {0, 3}), ("2", {2}), ("3,0-1", {0, 1, 3})]
)
def test_layers_by_numbers(layers: str, expected: set[int]) -> None:
    names = trained_by({**LLAMA, "num_hidden_layers": 4}, layers=layers)
    assert {int(name.split(".")[2]) for name in names} == expected


def test_names_and_patterns() -> None:
    assert trained_by(LLAMA, layers=0, parameters=["model.norm.weight"]) == {"model.norm.weight"}
    norms = trained_by(LLAMA, parameters=["*norm*"], layers=1)
    assert {"model.norm.weight", "model.layers.0.input_layernorm.weight"} < norms
    assert "model.layers.0.self_attn.q_proj.weight" not in norms
    tied = trained_by(TIED, layers=0, parameters=["model.embed_tokens.*"])
    assert tied == {"model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"layers": 0}, "leaves nothing"),
        ({"layers": 3}, "the model has not"),
        ({"layers": -3}, "the model has not"),
        ({"layers": "1-2"}, "the model has not"),
        ({"layers": 1, "parameters": ["lm_haed.*"]}, "lm_haed"),
    ],
)
def test_what_is_refused(method: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        trained_by(LLAMA, **method)


def test_an_export_is_the_base_with_what_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = AutoConfig.for_model(**LLAMA, vocab_size=264, initializer_range=0.2, pad_token_id=0)
    base = AutoModelForCausalLM.from_config(config)
    base.save_pretrained(tmp_path / "base")
    recipe = make_recipe(
        model={"source": str(tmp_path / "base"), "config": None, "tokenizer": None},
        method={"kind": "freeze", "layers": 1},
    )
    trained = trained_parameters(apply_method(load_model(recipe, vocab_size=264), recipe))
    weights = {name: parameter.detach() + 0.1 for name, parameter in trained.items()}
    (merged,) = export_run(recipe, iter(weights.items()), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    found = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, weights.get(name, base.get_parameter(name)))


class Held:
    """Parameters that are told their gradients."""

    def __init__(self) -> None:
        self.zeros: set[str] = set()

    def set_gradient(self, name: str, value: torch.Tensor) -> None:
        assert not value.any()
        self.zeros.add(name)


@pytest.mark.parametrize(("layers", "first"), [(2, "model.layers.1."), (-2, "model.layers.1.")])
def test_the_layer_nearest_the_output_is_trained_first(layers: int, first: str) -> None:
    method = {"kind": "freeze", "layers": layers, "parameters": ["*norm*"], "unfreeze_every_steps": 3}
    recipe = make_recipe(model={"source": "random", "config": LLAMA}, method=method)
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    acts = step_acts(module, recipe, 8)
    assert acts is not None
    for step in range(8):
        held: Any = Held()
        acts.before_update(step, held)
        waiting = {name for name in held.zeros if not name.startswith("model.layers.0.")}
        assert waiting == set(), f"{first} is trained from the first step"
        assert bool(held.zeros) == (step < 3)
        assert not any("norm" in name for name in held.zeros), "these were named"
    assert list(acts.state()) == []
    plain = make_recipe(model={"source": "random", "config": LLAMA}, method={"kind": "freeze"})
    assert step_acts(module, plain, 8) is None
