"""The table of model shapes against the models that transformers builds, and what a LoRA adapter adds to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import GEMMA2, LLAMA, make_recipe
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.model.shape import read_shape
from raysft.recipe.facts import ModelShape

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 300}
OPT = {
    "model_type": "opt",
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "vocab_size": 300,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA | {"vocab_size": 300},
    "llama, biases": LLAMA | {"vocab_size": 300, "attention_bias": True, "mlp_bias": True},
    "mistral": LLAMA | {"model_type": "mistral", "vocab_size": 300, "head_dim": 16},
    "qwen2, tied": LLAMA | {"model_type": "qwen2", "vocab_size": 300, "tie_word_embeddings": True},
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 16, "vocab_size": 300},
    "gemma": LLAMA | {"model_type": "gemma", "head_dim": 8, "vocab_size": 300, "tie_word_embeddings": True},
    "gemma2": GEMMA2 | {"vocab_size": 300},
    "phi3": LLAMA | {"model_type": "phi3", "vocab_size": 300, "pad_token_id": 0},
    "gpt2": GPT2,
    "gpt_neox": LLAMA | {"model_type": "gpt_neox", "vocab_size": 300},
    "opt": OPT,
    "mixtral": LLAMA | {"model_type": "mixtral", "vocab_size": 300, "num_local_experts": 4},
}


def shape_of(fields: dict[str, Any]) -> ModelShape:
    return read_shape(make_recipe(model={"config": fields}))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_is_counted(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIGS[name]))
    shape = shape_of(CONFIGS[name])
    assert shape.is_known
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    assert shape.layer_parameters == sum(p.numel() for p in layers[0].parameters())
    embeddings = {id(p): p.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in [m.weight]}
    assert shape.embedding_parameters == sum(embeddings.values())
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())  # parameters() knows shared ones
    assert shape.num_layers == len(layers)


def test_the_published_sizes() -> None:
    """Llama 3.1 8B has 8,030,261,248 parameters, Qwen3 8B 8,190,735,360 (safetensors metadata of the hub)."""
    llama = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
    assert shape_of(llama).num_parameters == 8_030_261_248
    qwen = llama | {
        "model_type": "qwen3",
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "vocab_size": 151936,
        "head_dim": 128,
    }
    assert shape_of(qwen).num_parameters == 8_190_735_360


def test_a_type_that_is_not_in_the_table_says_so() -> None:
    assert not shape_of(LLAMA | {"model_type": "olmo2", "vocab_size": 300}).is_known
