"""Tiny fresh models of several families, for tests of what differs between them."""

from __future__ import annotations

from typing import Any

import torch
from fakes import GEMMA2, LLAMA
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

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


TINY = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "max_seq_len": 128,
    "n_ctx": 128,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "n_shared_experts": 1,
    "shared_expert_intermediate_size": 16,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Fields that make a model tiny, as far as its type has them."""
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2} | {
    "depth": 2,
    "num_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "out_hidden_size": 32,
    "embed_dim": 16,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [],
}
"""Fields that make a vision or an audio tower tiny."""
LATENT = {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "v_head_dim": 8} | {
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
}
ROUTED = LATENT | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
INDEXED = ROUTED | {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 64}
STATE = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8} | {
    "linear_value_head_dim": 8,
    "num_hidden_layers": 4,
}
TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"]}
SPECIAL: dict[str, dict[str, Any]] = {
    "axk1": ROUTED | {"head_dim": 4},
    "axk2": ROUTED,
    "bamba": STATE | {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "deepseek_v2": ROUTED,
    "deepseek_v3": ROUTED | {"head_dim": 4},
    "deepseek_v32": INDEXED,
    "falcon_h1": STATE | {"mamba_d_ssm": 64},
    "gemma3n_text": TWO_KINDS
    | {"num_kv_shared_layers": 0, "intermediate_size": [48, 48], "activation_sparsity_pattern": [0.0, 0.0]}
    | {"vocab_size_per_layer_input": V, "hidden_size_per_layer_input": 8, "laurel_rank": 4, "altup_num_inputs": 2},
    "gemma4_text": TWO_KINDS
    | {"vocab_size_per_layer_input": V, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}
    | {"global_head_dim": 8},
    "glm4_moe_lite": ROUTED,
    "glm_moe_dsa": INDEXED,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": STATE | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 48},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4}
    | {"use_mamba_kernels": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": ROUTED
    | {"ffn_hidden_size": 48, "expert_ffn_hidden_size": 16, "zero_expert_num": 1, "num_layers": 2, "head_dim": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8, "chunk_size": 8},
    "minicpm3": LATENT,
    "qwen3_5_moe_text": DELTA,
    "qwen3_5_text": DELTA,
    "qwen3_next": DELTA,
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16},
    "xlnet": {"d_head": 8},
    "youtu": LATENT | {"head_dim": 4, "pad_token_id": None},  # transformers zeroes that row when it loads it
    "zaya": {"num_experts_per_tok": 1},
}
"""What else a type needs."""


def tiny_fields(model_type: str, vocab_size: int = V) -> dict[str, Any]:
    """Fields for AutoConfig.for_model of a tiny model of any type, its text and its towers."""
    config_class = CONFIG_MAPPING[model_type]
    fields = _known(config_class, TINY) | SPECIAL.get(model_type, {})
    default = config_class()
    for name in config_class.sub_configs:
        part = vars(default).get(name)
        if part is not None:
            small = TINY | SPECIAL.get(part.model_type, {}) if "text" in name else TOWER
            fields[name] = _known(type(part), small) | {"model_type": part.model_type}
    for part in (fields, *(value for value in fields.values() if isinstance(value, dict))):
        for name in ("vocab_size", "vocab_size_per_layer_input"):
            if name in part:
                part[name] = vocab_size
    return {"model_type": model_type, **fields}


def _known(config_class: Any, fields: dict[str, Any]) -> dict[str, Any]:
    default = config_class()
    names = {*default.to_dict(), *default.attribute_map}
    return {name: value for name, value in fields.items() if name in names}
