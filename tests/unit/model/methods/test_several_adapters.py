"""Several exported adapters on one base, by plain peft: switched, added up with weights, in fewer ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exports import FACTS, logits, write_base
from fakes import LLAMA, make_tokenizer
from models import local
from peft import PeftModel
from transformers import AutoModelForCausalLM

from raysft.model.export import export_run
from raysft.model.load import load_model
from raysft.model.methods import apply_method

METHODS: dict[str, dict[str, Any]] = {
    "one": {"kind": "lora", "rank": 4, "alpha": 8.0, "target_modules": ["q_proj", "v_proj"]},
    "other": {"kind": "lora", "rank": 6, "alpha": 6.0, "rslora": True, "target_modules": ["q_proj", "v_proj"]},
}
Delta = dict[str, torch.Tensor]
"""{name of a weight: what an adapter adds to it}."""


def export(base: Path, name: str, out: Path) -> tuple[str, Delta]:
    """(adapter of a run, what its merged export has that the base has not)."""
    recipe = local(base, method=METHODS[name], train={"precision": "fp32"})
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    torch.manual_seed(sum(map(ord, name)))
    trained = [
        (key, torch.randn_like(parameter) * 0.3)
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    ]
    adapter, merged = export_run(recipe, iter(trained), make_tokenizer(), out=str(out / name), card=FACTS)
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (base, merged))
    return adapter, {key: after[key] - before[key] for key in before}


@pytest.fixture
def adapters(tmp_path: Path) -> tuple[Path, dict[str, tuple[str, Delta]]]:
    base = write_base(tmp_path, LLAMA)
    return base, {name: export(base, name, tmp_path) for name in METHODS}


def with_both(base: Path, adapters: dict[str, tuple[str, Delta]]) -> PeftModel:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapters["one"][0], "one")
    model.load_adapter(adapters["other"][0], "other")
    return model


def moved(base: Path, parts: list[tuple[float, Delta]]) -> torch.Tensor:
    """Logits of the base with a weighted sum of what adapters add."""
    model = AutoModelForCausalLM.from_pretrained(base)
    state = model.state_dict()
    for weight, delta in parts:
        state = {key: value + weight * delta[key] for key, value in state.items()}
    model.load_state_dict(state)
    return logits(model)


def test_adapters_of_runs_are_switched_and_added_up(adapters: tuple[Path, dict[str, tuple[str, Delta]]]) -> None:
    base, found = adapters
    (_, one), (_, other) = found["one"], found["other"]
    model = with_both(base, found)
    for name, delta in (("one", one), ("other", other), ("one", one)):
        model.set_adapter(name)
        torch.testing.assert_close(logits(model), moved(base, [(1.0, delta)]), atol=1e-4, rtol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), logits(AutoModelForCausalLM.from_pretrained(base)))
    expected = moved(base, [(0.7, one), (0.5, other)])
    assert not torch.allclose(expected, moved(base, [(1.0, one)]), atol=1e-2)
    for kind, more in (("cat", {}), ("svd", {"svd_rank": 10})):  # 4 + 6 ranks hold the sum
        model.add_weighted_adapter(["one", "other"], [0.7, 0.5], kind, combination_type=kind, **more)
        model.set_adapter(kind)
        torch.testing.assert_close(logits(model), expected, atol=1e-3, rtol=1e-3)


def test_fewer_ranks_are_the_nearest_that_there_are(adapters: tuple[Path, dict[str, tuple[str, Delta]]]) -> None:
    """Eckart and Young: the singular values that are left out are the distance."""
    base, found = adapters
    model = with_both(base, found)
    model.add_weighted_adapter(["one", "other"], [1.0, 1.0], "small", combination_type="svd", svd_rank=5)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    name = "model.layers.0.self_attn.q_proj.weight"
    whole = found["one"][1][name] + found["other"][1][name]
    lost = torch.linalg.svdvals(whole)[5:]
    apart = (layer.get_delta_weight("small") - whole).norm()
    torch.testing.assert_close(apart, lost.norm(), atol=1e-4, rtol=1e-3)
