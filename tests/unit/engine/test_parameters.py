"""Weight decay reaches matrices and nothing else, by what a parameter is for."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import LLAMA, make_recipe
from families import COHERE, make_model

from raysft.engine.parameters import make_optimizer
from raysft.model.facts import read_facts
from raysft.model.methods import apply_method
from raysft.recipe.resolve import resolve

GPT_OSS = LLAMA | {"model_type": "gpt_oss", "num_local_experts": 4, "head_dim": 8, "sliding_window": 32}
JAMBA = LLAMA | {
    "model_type": "jamba",
    "num_experts": 2,
    "mamba_d_state": 4,
    "mamba_dt_rank": 4,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "use_mamba_kernels": False,
}
STILL = {
    "cohere": (
        COHERE | {"use_qk_norm": True},
        {"q_norm.weight", "k_norm.weight", "input_layernorm.weight", "norm.weight"},
    ),
    "gpt_oss": (
        GPT_OSS,
        {"experts.gate_up_proj_bias", "experts.down_proj_bias", "router.bias", "self_attn.sinks", "norm.weight"}
        | {f"self_attn.{name}.bias" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
        | {"input_layernorm.weight", "post_attention_layernorm.weight"},
    ),
    "jamba": (
        JAMBA,
        {f"mamba.{name}" for name in ("A_log", "D", "conv1d.bias", "dt_proj.bias")}
        | {f"mamba.{name}_layernorm.weight" for name in ("dt", "b", "c")}
        | {"input_layernorm.weight", "pre_ff_layernorm.weight", "final_layernorm.weight"},
    ),
}
"""Family -> config, and the ends of the names of all parameters that must not decay, written down by hand."""


def groups(fields: dict[str, Any], method: dict[str, Any] | None = None) -> tuple[set[str], set[str]]:
    """Names that decay, and names that do not."""
    model = make_model(fields)
    recipe = make_recipe(
        model={"source": "random", "config": dict(LLAMA), "tokenizer": "t"},
        optimizer={"weight_decay": 0.1},
        method=method or {},
    )
    module = apply_method(model, recipe)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    names = {p: name for name, p in trained.items()}
    found: dict[float, set[str]] = {0.0: set(), 0.1: set()}
    for group in make_optimizer(module, trained, resolve(recipe, read_facts(recipe), None)).param_groups:
        found[group["weight_decay"]] |= {names[p] for p in group["params"]}
    assert found[0.0] | found[0.1] == set(trained)
    return found[0.1], found[0.0]


@pytest.mark.parametrize("family", STILL)
def test_norms_biases_and_numbers_of_channels_do_not_decay_whatever_their_axes(family: str) -> None:
    fields, ends = STILL[family]
    decayed, still = groups(fields)
    assert {name for name in still if not name.endswith(tuple(ends))} == set()
    assert {name for name in decayed if name.endswith(tuple(ends))} == set()
    assert all(any(name.endswith(end) for name in still) for end in ends), "each of them is in this model"
    assert any("embed_tokens" in name for name in decayed)


def test_both_matrices_of_an_adapter_decay_at_rank_1() -> None:
    decayed, still = groups(LLAMA, {"kind": "lora", "rank": 1, "target_modules": ["q_proj", "embed_tokens"]})
    assert len(decayed) == 6
    assert not still
