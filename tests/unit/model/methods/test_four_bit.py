"""A base in 4 bits: the same numbers in training, in the merge and beside the adapter; what it does not go with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import FACTS, IDS, logits, write_base
from fakes import make_recipe, make_tokenizer
from families import LLAMA
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from raysft.errors import ModelError, RecipeError
from raysft.model.export import export_run
from raysft.model.load import load_model
from raysft.model.methods import apply_method, base_model, check_four_bit, hold_in_four_bits
from raysft.model.methods.four_bit import FourBitLinear
from raysft.model.shape import read_shape
from raysft.model.trained import load_untrained
from raysft.planner.memory import predict
from raysft.recipe.facts import ModelShape
from raysft.recipe.model_checks import check_method
from raysft.recipe.schema import Recipe

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes (the extra qlora) is not installed"
)


def recipe_of(base: Path, **fields: Any) -> Recipe:
    return make_recipe(
        model={"source": str(base), "config": None, "tokenizer": None},
        method={"kind": "lora", "rank": 4, "base_precision": "nf4", "target_modules": ["q_proj", "down_proj"]},
        **fields,
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path, LLAMA)


@needs_package
def test_a_merged_export_computes_what_was_trained_in_four_bits(base: Path, tmp_path: Path) -> None:
    import bitsandbytes

    recipe = recipe_of(base)
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    hold_in_four_bits(base_model(module), recipe)
    held = [m for m in module.modules() if isinstance(m, FourBitLinear)]
    layers = len([m for m in AutoModelForCausalLM.from_pretrained(base).model.modules() if isinstance(m, nn.Linear)])
    assert len(held) == layers
    assert {p.dtype for m in held for p in m.parameters() if p is not m.bias} == {torch.uint8}
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert (logits(module) - logits(plain)).abs().max() > 1e-2, "4 bits are other numbers"
    torch.testing.assert_close(logits(load_untrained(recipe, vocab_size=264)), logits(module), atol=1e-4, rtol=1e-4)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = module(input_ids=IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.1
    expected = logits(module)
    weights = {name: p.detach().clone() for name, p in trained.items()}
    adapter, merged = export_run(recipe, iter(weights.items()), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(merged)), expected, atol=1e-4, rtol=1e-4)
    other = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for layer in (m for m in other.model.modules() if isinstance(m, nn.Linear)):
        packed, state = bitsandbytes.functional.quantize_4bit(
            layer.weight.data, compress_statistics=True, quant_type="nf4"
        )
        layer.weight.data = bitsandbytes.functional.dequantize_4bit(packed, state)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(other, adapter)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "got"),
    [
        ({"parallel": {"zero": 3}, "cluster": {"workers": 2}}, "parallel.zero: 3"),
        ({"parallel": {"tensor": 2, "zero": 1}, "cluster": {"workers": 2}}, "parallel.tensor: 2"),
        ({"parallel": {"pipeline": 2, "zero": 1}, "cluster": {"workers": 2}}, "parallel.pipeline: 2"),
    ],
)
def test_what_it_does_not_go_with_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], got: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_method(recipe_of(tmp_path, **fields))
    assert got in caught.value.got


def test_a_missing_package_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as caught:
        check_four_bit(recipe_of(tmp_path))
    assert "raysft[qlora]" in caught.value.fix


def test_the_plan_counts_four_bits_of_the_linear_layers(shape: ModelShape) -> None:
    full = make_recipe(method={"kind": "lora"}, train={"precision": "bf16"})
    four = make_recipe(method={"kind": "lora", "base_precision": "nf4"}, train={"precision": "bf16"})
    saved = [predict(one, shape, is_gpu=True).states.parameters for one in (full, four)]
    linear = shape.num_layers * sum(one.inputs * one.outputs for one in shape.linears)
    assert saved[0] - saved[1] == pytest.approx(linear * (2 - 4.127 / 8), rel=1e-3)


@pytest.fixture
def shape() -> ModelShape:
    return read_shape(make_recipe())
