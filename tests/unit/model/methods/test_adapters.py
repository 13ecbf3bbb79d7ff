"""Adapters on experts, and what is said of what they leave frozen; merged one layer after another."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from fakes import make_recipe, make_tokenizer
from families import tiny_fields

from raysft.errors import ModelError
from raysft.model.load import empty_model, load_model
from raysft.model.methods import apply_method, merge_layer, unload
from raysft.model.rehearsal import rehearse
from raysft.recipe.schema import Recipe

LORA = {"kind": "lora", "rank": 4}


def fresh(model_type: str, method: dict[str, Any] | None = None, *, packing: bool = False, **fields: Any) -> Recipe:
    config = tiny_fields(model_type) | fields
    for name in {"vocab_size", "pad_token_id"} - set(fields):
        config.pop(name, None)
    model = {"source": "random", "config": config, "tokenizer": "t"}
    return make_recipe(model=model, method=method or {}, data={"packing": packing})


EXPERTS = ("gpt_oss", "granitemoe", "qwen2_moe", "mixtral", "deepseek_v3")


@pytest.mark.parametrize("model_type", EXPERTS)
def test_experts_that_are_parameters_are_adapted_and_what_is_left_is_named(model_type: str) -> None:
    recipe = fresh(model_type, LORA)
    lines = rehearse(recipe, make_tokenizer())
    model = apply_method(empty_model(recipe, vocab_size=300), recipe)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(".experts." in name for name in trained)
    for name in ("gate_up_proj x", "down_proj x"):
        assert name in lines[1]
    frozen = [line.split()[1] for line in lines if line.startswith("frozen") and "embeddings" not in line]
    assert not [name for name in frozen if "Experts" in name]
    if model_type in ("gpt_oss", "granitemoe", "qwen2_moe"):
        assert [name for name in frozen if name.endswith("Router.weight")]


def test_experts_that_no_target_names_are_said_to_be_frozen() -> None:
    lines = rehearse(fresh("gpt_oss", LORA | {"target_modules": ["q_proj"]}), make_tokenizer())
    model = empty_model(fresh("gpt_oss"), vocab_size=len(make_tokenizer()))
    experts = sum(p.numel() for name, p in model.named_parameters() if name.endswith("experts.gate_up_proj"))
    assert any(f"GptOssExperts.gate_up_proj x 2: {experts:,} parameters (" in line for line in lines), lines


def test_dropout_on_experts_is_what_the_message_names() -> None:
    with pytest.raises(ModelError, match="take no dropout") as caught:
        rehearse(fresh("mixtral", LORA | {"dropout": 0.1}), make_tokenizer())
    assert caught.value.fix.startswith("set method.dropout: 0")


MERGING = {
    "a product is added": peft.LoraConfig(r=4, target_modules=["q_proj"]),
    "weights are turned": peft.HRAConfig(r=4, target_modules=["q_proj"]),
    "another layer is put there": peft.LNTuningConfig(target_modules=["input_layernorm"]),
}


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
@pytest.mark.parametrize("way", MERGING)
def test_merged_one_layer_after_another_it_is_what_peft_merges(way: str) -> None:
    """Whatever a merge does to a layer, and again with other weights in it."""
    recipe = fresh("llama", vocab_size=40)
    base = load_model(recipe, vocab_size=40)
    adapted = peft.get_peft_model(base, MERGING[way])
    torch.manual_seed(3)
    for parameter in (p for p in adapted.parameters() if p.requires_grad):
        parameter.data.add_(torch.randn_like(parameter))
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        expected = adapted.eval()(input_ids=tokens).logits
        model, layers = unload(adapted)
        untouched = {name: weight.clone() for name, weight in model.state_dict().items()}
        for _ in range(2):
            model.load_state_dict(untouched)
            assert not torch.allclose(model(input_ids=tokens).logits, expected, atol=1e-3)
            for adapters in layers.values():
                merge_layer(adapters)
            torch.testing.assert_close(model(input_ids=tokens).logits, expected, atol=1e-4, rtol=1e-4)
