"""Answers to prompts: the protocol, and those of a model in memory. Owns padding and when an answer ends.

Chance is a prompt's own (evaluate/draws.py): what is sampled depends neither on the batch nor on what came before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer

from raysft.errors import ModelError
from raysft.evaluate.draws import Draws
from raysft.evaluate.exported import load_exported
from raysft.evaluate.sampling import Sampling
from raysft.model.fast.padded import padded_attention
from raysft.model.methods import Forward, PlainForward
from raysft.recipe.evaluation_sets import ANSWERS


class Generator(Protocol):
    """What answers prompts: a model in this process, later others."""

    def load(self, location: str) -> None:
        """Answer with the exported model at a location from now on. Raises ModelError."""

    def generate(self, prompts: Sequence[str], how: Sampling, *, first: int = 0) -> list[str]:
        """An answer to each prompt, in the prompts' order, without special tokens.

        prompts: rendered text, generation prompt included. first: number of the first prompt, of which what is
        sampled depends. Raises ModelError.
        """


@dataclass
class TransformersGenerator:
    """The answers of a model in memory, in batches."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    stops: Sequence[int] | None = None
    """Tokens that end an answer. Default: every special token."""
    batch_size: int = ANSWERS
    forward: Forward | None = None
    """What reads prompts; None: the model alone."""

    def load(self, location: str) -> None:
        """See Generator. In fp32, on the device of the model that was there; an answer ends where it did."""
        device = self.model.device
        model, self.tokenizer = load_exported(location)
        self.model, self.forward = model.float(), None
        torch.nn.Module.to(self.model, device)

    def generate(self, prompts: Sequence[str], how: Sampling, *, first: int = 0) -> list[str]:
        """See Generator. An answer ends at a stop, after max_new_tokens, or where the model's positions end.

        Raises ModelError when a prompt is too long.
        """
        tokenizer = self.tokenizer
        ids = [self.tokens(prompt) for prompt in prompts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # equal lengths together: little padding
        answers: dict[int, str] = {}
        with _not_training(self.model):
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                rows = self._generate([ids[i] for i in batch], [first + i for i in batch], how)
                texts = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                answers |= zip(batch, texts, strict=True)
        return [answers[i] for i in range(len(ids))]

    def stream(self, prompt: str, how: Sampling, tell: Callable[[str], None], *, number: int = 0) -> str:
        """The answer to one prompt. tell: called with each piece of it as soon as its characters are whole.

        Raises ModelError when the prompt is too long, and what tell raises: so an answer is broken off.
        """
        streamer = _Streamer(self.tokenizer, tell)
        with _not_training(self.model):
            self._generate([self.tokens(prompt)], [number], how, streamer)
        return streamer.told

    def tokens(self, prompt: str) -> list[int]:
        """Token ids of a rendered prompt."""
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids

    @torch.no_grad()
    def _generate(
        self, prompts: list[list[int]], numbers: list[int], how: Sampling, streamer: BaseStreamer | None = None
    ) -> list[list[int]]:
        """New tokens of each prompt, special ones not yet removed. Padded on the left to width W: [B, W]."""
        model, tokenizer = self.model, self.tokenizer
        forward = PlainForward(model) if self.forward is None else self.forward
        ends = stop_ids(tokenizer) if self.stops is None else sorted(self.stops)
        width = max(map(len, prompts))
        room = positions_left(model, width + forward.extra_positions)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
        input_ids = torch.tensor([[padding] * (width - len(p)) + p for p in prompts], device=model.device)  # [B, W]
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)  # [B, W]
        plain = GenerationConfig(
            max_new_tokens=min(how.max_new_tokens, room),
            do_sample=False,
            use_cache=True,
            eos_token_id=ends or None,
            pad_token_id=padding,
        )
        more: dict[str, Any] = {} if streamer is None else {"streamer": streamer}
        if how.temperature:
            draws = Draws(numbers, seed=how.seed, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p)
            more["logits_processor"] = LogitsProcessorList([draws])
        own, model.generation_config = model.generation_config, plain  # no sampling or penalty of the model's own
        try:
            generate: Any = model.generate  # a Tensor or a Module, says nn.Module.__getattr__
            taken = forward.prompts(input_ids, mask)
            with padded_attention(model):
                output = generate(**taken, **more)
        finally:
            model.generation_config = own
        rows: list[list[int]] = output[:, width if "input_ids" in taken else 0 :].tolist()
        return rows


class _Streamer(BaseStreamer):
    """Tells an answer while it is made. Text that ends in the middle of a character waits for the rest."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tell: Callable[[str], None]) -> None:
        self.told = ""
        self._tokenizer, self._tell = tokenizer, tell
        self._ids: list[int] | None = None  # None: the prompt comes first

    def put(self, value: torch.Tensor) -> None:
        """See BaseStreamer."""
        if self._ids is None:
            self._ids = []
            return
        self._ids += value.flatten().tolist()
        text = self._text()
        if not text.endswith("\ufffd"):
            self._say(text)

    def end(self) -> None:
        """See BaseStreamer."""
        self._say(self._text())

    def _text(self) -> str:
        ids = self._ids or []
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _say(self, text: str) -> None:
        piece, self.told = text[len(self.told) :], text
        if piece:
            self._tell(piece)


@contextmanager
def _not_training(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(was_training)


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Token ids that end an answer: end of text, end of turn, every other special token."""
    added = tokenizer.added_tokens_decoder.items()
    return sorted({*tokenizer.all_special_ids, *(number for number, token in added if token.special)})


def positions_left(model: PreTrainedModel, prompt_tokens: int) -> int:
    """New tokens that the model's positions leave for a prompt of this length. Raises ModelError: none."""
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
