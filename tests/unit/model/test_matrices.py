"""Which weights Muon moves, over families: written down by hand."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import LLAMA, make_recipe
from families import make_model, tiny_fields
from torch import nn

from raysft.model.decoder import task_head
from raysft.model.heads import auxiliary_head
from raysft.model.load import empty_model
from raysft.model.matrices import matrices
from raysft.model.methods import apply_method

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
GPT_OSS = LLAMA | {"model_type": "gpt_oss", "num_local_experts": 4, "head_dim": 8, "sliding_window": 32}
MAMBA = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "time_step_rank": 2}
ATTENTION = {f"self_attn.{name}_proj.weight" for name in "qkvo"}

FAMILIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "llama": (LLAMA, ATTENTION | {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}),
    "llama, tied": (
        LLAMA | {"tie_word_embeddings": True},
        ATTENTION | {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")},
    ),
    "gpt2": (GPT2, {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}),
    "gpt_oss": (GPT_OSS, ATTENTION | {"experts.gate_up_proj", "experts.down_proj"}),
    "mamba": (MAMBA, {f"mixer.{name}.weight" for name in ("in_proj", "x_proj", "dt_proj", "out_proj")}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_weights_of_linear_layers_and_of_experts(family: str) -> None:
    fields, ends = FAMILIES[family]
    found = matrices(make_model(fields))
    assert {name for name in found if not name.endswith(tuple(ends))} == set()
    assert all(any(name.endswith(end) for name in found) for end in ends)


def test_only_what_is_trained() -> None:
    recipe = make_recipe(method={"kind": "lora", "rank": 4, "target_modules": ["q_proj"]})
    names = sorted(matrices(apply_method(make_model(LLAMA), recipe)))
    assert [name.partition("layers.")[2] for name in names] == [
        f"{layer}.self_attn.q_proj.lora_{matrix}.default.weight" for layer in (0, 1) for matrix in "AB"
    ]


@pytest.mark.parametrize("model_type", ["llama", "bert", "roberta"])
def test_an_objectives_heads_are_none(model_type: str) -> None:
    """Their rows are labels, and domains, as those of an LM head are tokens."""
    labels, domains = ["a", "b", "c"], {"names": ["x", "y"], "hidden_size": 5}
    recipe = make_recipe(
        model={"source": "random", "config": LLAMA if model_type == "llama" else tiny_fields(model_type)},
        objective={"kind": "classify", "labels": labels, "domains": domains},
        data={"packing": model_type == "llama"},
        optimizer={"kind": "muon"},
    )
    module = apply_method(empty_model(recipe, vocab_size=300), recipe)
    assert task_head(module) is not None
    inside = nn.ModuleDict({"model": module, "auxiliary": auxiliary_head(module, recipe)})
    found = {name.removeprefix("model.") for name in matrices(inside)}
    decoder = "model." if model_type == "llama" else f"{model_type}."
    assert found == {name for name in found if name.startswith(decoder)}
    assert found
