"""Tiny fresh models of several families, for tests of what differs between them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fakes import GEMMA2, LLAMA

V = 97
COHERE = {k: v for k, v in LLAMA.items() if k != "tie_word_embeddings"} | {
    "model_type": "cohere",
    "logit_scale": 0.25,
}
GRANITE = LLAMA | {"model_type": "granite", "logits_scaling": 4.0}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
NEOX = {"model_type": "gpt_neox", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2} | {
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
TIED = LLAMA | {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True}
FAMILIES = {"llama": LLAMA, "gemma2": GEMMA2, "cohere": COHERE, "granite": GRANITE, "gpt2": GPT2, "tied": TIED}


def make_model(fields: dict[str, Any], attention: str = "eager") -> PreTrainedModel:
    torch.manual_seed(0)
    fields = dict(fields) | {"vocab_size": V, "initializer_range": 0.2, "pad_token_id": 0}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.eval()
