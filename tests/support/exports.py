"""Small models that are exported, what their cards are told, and what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fakes import LLAMA, make_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from raysft.model.card import CardFacts

FACTS = CardFacts(3, 10, 100, 50, {"data": "d", "mathematics": "m"}, {}, {})
"""What an export's card is told where a test is not about the card."""
IDS = torch.arange(20).reshape(2, 10)


def write_base(directory: Path, fields: dict[str, Any]) -> Path:
    """A fresh model of 264 tokens and of these fields of a config, in directory/base."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(**fields, vocab_size=264, initializer_range=0.2, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory / "base")
    return directory / "base"


def logits(model: Any) -> Tensor:
    """Those of IDS, fp32 [2, 10, 264]."""
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


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
