"""Small models that are exported, what their cards are told, and what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fakes import LLAMA, make_tokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

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


def moved(module: nn.Module) -> dict[str, Tensor]:
    """{name: weight} of what is trained, which chance has moved, always alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def classifier_at(directory: str) -> Any:
    """A sequence classifier as transformers loads it, with all of its weights and no others."""
    loaded, told = AutoModelForSequenceClassification.from_pretrained(directory, output_loading_info=True)
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return loaded


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
