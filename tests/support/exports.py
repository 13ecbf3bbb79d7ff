"""Small exported models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fakes import LLAMA, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM


def write_export(directory: Path, seed: int = 0, **fields: Any) -> Path:
    """A Llama of 260 bytes and special tokens, with weights by chance, that stops at the end of a turn."""
    torch.manual_seed(seed)
    values = {name: value for name, value in LLAMA.items() if name != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(**{**values, "vocab_size": 260, "initializer_range": 0.4, **fields}))
    tokenizer = make_tokenizer()
    config: Any = model.generation_config
    config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
