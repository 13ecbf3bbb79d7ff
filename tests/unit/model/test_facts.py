"""What is read from a config against the model that transformers builds of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fakes import GEMMA2, LLAMA, make_recipe
from raysft.model.facts import read_facts
from raysft.recipe.resolve import resolve

CONFIGS = {
    "llama": LLAMA | {"vocab_size": 300},
    "gemma2": GEMMA2 | {"vocab_size": 300},
    "qwen3, heads wider than the model": LLAMA | {"model_type": "qwen3", "head_dim": 16, "vocab_size": 300},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 300},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_weights_that_a_token_meets(name: str) -> None:
    fields: dict[str, Any] = CONFIGS[name]
    facts = read_facts(make_recipe(model={"config": fields}))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    matrices = [p for p in model.parameters() if p.dim() == 2 and id(p) not in embeddings]
    head = 300 * 32  # its weight may be the embedding's
    body = sum(p.numel() for p in matrices if p is not model.get_output_embeddings().weight)
    assert facts.num_parameters == body + head
    assert facts.attention_size == (64 if "qwen3" in name else 32)


def test_a_mixture_of_experts_counts_the_experts_of_a_token() -> None:
    fields = LLAMA | {
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "vocab_size": 300,
    }
    facts = read_facts(make_recipe(model={"config": fields}))
    size = facts.attention_size
    attention = 32 * size * 2 + 32 * (size // 2) * 2  # 4 heads, 2 of keys and values
    assert facts.num_parameters == 2 * (attention + 2 * 3 * 32 * 40) + 32 * 300


def test_predicted_flops() -> None:
    """Per token 6 x weights; per squared length 12 x layers x attention size, half of it under the causal mask."""
    recipe = make_recipe(model={"config": LLAMA | {"vocab_size": 300}})
    facts = read_facts(recipe)
    run = resolve(recipe, facts, None)
    assert (run.token_flops, run.square_flops) == (6 * facts.num_parameters, 6 * 2 * 32)
    adapters = resolve(make_recipe(method={"kind": "lora"}), facts, None)
    assert (adapters.token_flops, adapters.square_flops) == (4 * facts.num_parameters, 6 * 2 * 32)


@pytest.mark.parametrize(("zero", "sync"), [(0, "step"), (1, "step"), (2, "micro_batch"), (3, "micro_batch")])
def test_when_replicas_wait(zero: int, sync: str) -> None:
    recipe = make_recipe(model={"config": LLAMA | {"vocab_size": 300}}, parallel={"zero": zero})
    assert resolve(recipe, read_facts(recipe), None).sync == sync
