"""Recipes on models of a few kilobytes: of a type's config, or of a directory that transformers has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fakes import LLAMA, make_recipe
from families import tiny_fields
from transformers import LlamaConfig, LlamaForCausalLM

from raysft.recipe.schema import Recipe


def fresh(model_type: str, method: dict[str, Any] | None = None, *, packing: bool = False, **fields: Any) -> Recipe:
    config = tiny_fields(model_type) | fields
    for name in {"vocab_size", "pad_token_id"} - set(fields):
        config.pop(name, None)
    model = {"source": "random", "config": config, "tokenizer": "t"}
    return make_recipe(model=model, method=method or {}, data={"packing": packing})


def local(directory: Path | str, **sections: Any) -> Recipe:
    """On a model directory."""
    return make_recipe(model={"source": str(directory), "config": None, "tokenizer": None}, **sections)


def write_llama(directory: Path) -> Path:
    """A Llama of 50 tokens in bf16."""
    fields = {k: v for k, v in LLAMA.items() if k != "model_type"}
    LlamaForCausalLM(LlamaConfig(**fields, vocab_size=50)).to(torch.bfloat16).save_pretrained(directory)
    return directory
