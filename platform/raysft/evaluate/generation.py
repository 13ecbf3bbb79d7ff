"""Greedy answers to prompts, in batches, and their score. Owns padding and when an answer ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from raysft.errors import ModelError


def answer_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    stops: Sequence[int] | None = None,
) -> list[str]:
    """The model's greedy answer to each prompt, in the prompts' order, without special tokens.

    prompts: rendered text, generation prompt included. An answer ends at one of the tokens `stops` (default: any
    special token), after max_new_tokens, or where the model's positions end. Raises ModelError when a prompt is too
    long.
    """
    ends = stop_ids(tokenizer) if stops is None else sorted(stops)
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # equal lengths together: little padding
    answers: dict[int, str] = {}
    was_training = model.training
    model.train(False)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = _generate(model, tokenizer, [ids[i] for i in batch], max_new_tokens, ends)
        texts = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        answers |= zip(batch, texts, strict=True)
    model.train(was_training)
    return [answers[i] for i in range(len(ids))]


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """Share of answers that equal their reference, white space around them aside. There must be some."""
    equal = [answer.strip() == reference.strip() for answer, reference in zip(answers, references, strict=True)]
    return sum(equal) / len(equal)


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Token ids that end an answer: end of text, end of turn, every other special token."""
    added = tokenizer.added_tokens_decoder.items()
    return sorted({*tokenizer.all_special_ids, *(number for number, token in added if token.special)})


@torch.no_grad()
def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    max_new_tokens: int,
    stops: list[int],
) -> list[list[int]]:
    """New tokens of each prompt, special ones not yet removed. Padded on the left to width W: [B, W]."""
    width = max(map(len, prompts))
    room = _room(model, width)
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
        output = generate(input_ids=input_ids, attention_mask=mask)
    finally:
        model.generation_config = own
    rows: list[list[int]] = output[:, width:].tolist()
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
