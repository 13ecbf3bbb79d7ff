"""What is read from a config against the model that transformers builds of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import GEMMA2, LLAMA, make_recipe
from families import tiny_fields
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.errors import ModelError, RecipeError
from raysft.model.facts import check_vocabulary, read_facts
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


NAMED_OTHERWISE = {
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64}
    | {"attention_types": [[["global", "local"], 1]]},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 64},
}


@pytest.mark.parametrize("model_type", NAMED_OTHERWISE)
def test_sizes_by_the_names_of_their_types(model_type: str) -> None:
    fields = NAMED_OTHERWISE[model_type] | {"model_type": model_type, "vocab_size": 300}
    facts = read_facts(make_recipe(model={"config": fields}))
    assert (facts.num_layers, facts.hidden_size, facts.num_heads, facts.max_tokens) == (2, 32, 4, 64)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    body = sum(p.numel() for p in model.parameters() if p.dim() == 2 and id(p) not in embeddings)
    assert facts.num_parameters == body + 300 * 32


@pytest.mark.parametrize("model_type", ["mamba", "mamba2", "falcon_mamba", "rwkv"])
def test_a_type_without_heads_is_read_and_cannot_be_divided(model_type: str) -> None:
    facts = read_facts(make_recipe(model={"config": tiny_fields(model_type)}))
    assert facts.hidden_size == 32
    if model_type != "mamba2":  # it calls its states heads
        assert (facts.num_heads, facts.num_kv_heads, facts.attention_size) == (1, 1, 0)


def test_a_size_for_each_layer_is_read_as_their_mean() -> None:
    fields = tiny_fields("gemma3n_text")
    one, two = (
        read_facts(make_recipe(model={"config": fields | {"intermediate_size": sizes}})).num_parameters
        for sizes in ([48, 48], [40, 56])
    )
    assert one == two
    assert one == read_facts(make_recipe(model={"config": fields | {"intermediate_size": 48}})).num_parameters


LONG = LLAMA | {"max_position_embeddings": 256}
ROPES = {
    "longrope": (
        LONG
        | {"model_type": "phi3", "original_max_position_embeddings": 64}
        | {
            "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
            | {"original_max_position_embeddings": 64, "rope_theta": 10000.0}
        },
        64,
    ),
    "dynamic": (LONG | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}, 256),
    "linear": (LONG | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}, None),
    "plain": (LONG, None),
}


@pytest.mark.parametrize("kind", ROPES)
def test_rows_beyond_the_length_that_rotary_factors_hold_for_are_refused(kind: str) -> None:
    fields, limit = ROPES[kind]
    recipe = make_recipe(model={"config": fields | {"vocab_size": 300}}, data={"max_tokens": limit or 256})
    facts = read_facts(recipe)
    assert facts.same_factors_up_to == limit
    resolve(recipe, facts, None)
    if kind == "longrope":
        longer = make_recipe(model={"config": fields | {"vocab_size": 300}}, data={"max_tokens": 65})
        with pytest.raises(RecipeError, match="rotary factors") as caught:
            resolve(longer, facts, None)
        assert caught.value.fix == "set data.max_tokens to 64 or less"


def test_a_routers_loss_that_a_config_asks_for_is_known() -> None:
    fields = tiny_fields("mixtral")
    for asked, weight in (({}, 0.0), ({"output_router_logits": True, "router_aux_loss_coef": 0.02}, 0.02)):
        assert read_facts(make_recipe(model={"config": fields | asked})).router_loss == weight


def test_the_fix_for_too_many_tokens_is_one_that_applies(tmp_path: Path) -> None:
    def refusal(**model: Any) -> str:
        recipe = make_recipe(model=model)
        check_vocabulary(recipe, 300, 300)
        with pytest.raises(ModelError, match="more tokens than the model") as caught:
            check_vocabulary(recipe, 300, 301)
        return caught.value.fix

    own = {"source": str(tmp_path), "config": None, "tokenizer": None}
    assert "resize_token_embeddings(301)" in refusal(**own)
    assert "leave model.tokenizer out" in refusal(**own | {"tokenizer": "other"})
    assert "vocab_size to 301" in refusal(config=LLAMA | {"vocab_size": 300})
    check_vocabulary(make_recipe(), 300, 301)  # fresh weights get a row for each
