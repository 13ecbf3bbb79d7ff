"""Answers to prompts: the protocol, and greedy ones of a model in memory. Owns padding and when an answer ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from raysft.errors import ModelError
from raysft.evaluate.exported import load_exported
from raysft.model.methods import Forward, PlainForward


@dataclass(frozen=True)
class Sampling:
    """How an answer is chosen: greedily."""

    max_new_tokens: int


class Generator(Protocol):
    """What answers prompts: a model in this process, later others."""

    def load(self, location: str) -> None:
        """Answer with the exported model at a location from now on. Raises ModelError."""

    def generate(self, prompts: Sequence[str], how: Sampling) -> list[str]:
        """An answer to each prompt, in the prompts' order, without special tokens.

        prompts: rendered text, generation prompt included. Raises ModelError.
        """


@dataclass
class TransformersGenerator:
    """The greedy answers of a model in memory, in batches."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    stops: Sequence[int] | None = None
    """Tokens that end an answer. Default: every special token."""
    batch_size: int = 32
    forward: Forward | None = None
    """What reads prompts; None: the model alone."""

    def load(self, location: str) -> None:
        """See Generator. In fp32, on the device of the model that was there; an answer ends where it did."""
        device = self.model.device
        model, self.tokenizer = load_exported(location)
        self.model, self.forward = model.float(), None
        torch.nn.Module.to(self.model, device)

    def generate(self, prompts: Sequence[str], how: Sampling) -> list[str]:
        """See Generator. An answer ends at a stop, after max_new_tokens, or where the model's positions end.

        Raises ModelError when a prompt is too long.
        """
        model, tokenizer = self.model, self.tokenizer
        forward = PlainForward(model) if self.forward is None else self.forward
        ends = stop_ids(tokenizer) if self.stops is None else sorted(self.stops)
        ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # equal lengths together: little padding
        answers: dict[int, str] = {}
        was_training = model.training
        model.train(False)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            rows = _generate((model, forward), tokenizer, [ids[i] for i in batch], how.max_new_tokens, ends)
            texts = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            answers |= zip(batch, texts, strict=True)
        model.train(was_training)
        return [answers[i] for i in range(len(ids))]


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Token ids that end an answer: end of text, end of turn, every other special token."""
    added = tokenizer.added_tokens_decoder.items()
    return sorted({*tokenizer.all_special_ids, *(number for number, token in added if token.special)})


@torch.no_grad()
def _generate(
    whole: tuple[PreTrainedModel, Forward],
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    max_new_tokens: int,
    stops: list[int],
) -> list[list[int]]:
    """New tokens of each prompt, special ones not yet removed. Padded on the left to width W: [B, W]."""
    model, forward = whole
    width = max(map(len, prompts))
    room = _room(model, width + forward.extra_positions)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stops or [0])[0]
    input_ids = torch.tensor([[padding] * (width - len(p)) + p for p in prompts], device=model.device)  # [B, W]
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)  # [B, W]
    plain = GenerationConfig(
        max_new_tokens=min(max_new_tokens, room),
        do_sample=False,
        use_cache=True,
        eos_token_id=stops or None,
        pad_token_id=padding,
    )
    own, model.generation_config = model.generation_config, plain  # no sampling or penalty of the model's own
    try:
        generate: Any = model.generate  # a Tensor or a Module, says nn.Module.__getattr__
        taken = forward.prompts(input_ids, mask)
        output = generate(**taken)
    finally:
        model.generation_config = own
    rows: list[list[int]] = output[:, width if "input_ids" in taken else 0 :].tolist()
    return rows


def _room(model: PreTrainedModel, prompt_tokens: int) -> int:
    """New tokens that the model's positions leave for a prompt of this length."""
    fields = model.config.get_text_config().to_dict()
    limit = fields.get("max_position_embeddings") or fields.get("n_positions")
    if limit is None:
        return 2**31
    if prompt_tokens >= limit:
        raise ModelError(
            "a prompt is too long for the model",
            got=f"{prompt_tokens} tokens",
            expected=f"fewer than the model's {limit} positions",
            fix="leave that prompt out, or use a model with more positions",
        )
    return int(limit) - prompt_tokens
