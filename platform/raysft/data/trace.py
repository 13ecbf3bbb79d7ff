"""One record on its way to tokens, as prepare takes it, with everything kept that a person wants to see. No Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from raysft.data.chat import Example, encode, render, trained_spans
from raysft.data.clean.cleaner import Cleaner
from raysft.data.conversations import check_source_columns, read_raw, reading_of
from raysft.data.offsets import locate, tokenize
from raysft.data.records import Conversation, Note, Refusal
from raysft.data.rendering import Template
from raysft.data.sources import RawRecord, describe_line, expand, file_and_position
from raysft.data.stage import is_held_out
from raysft.data.tokenizer import recipe_tokenizer, template_for
from raysft.recipe.rules import AUGMENTING
from raysft.recipe.schema import Recipe


@dataclass(frozen=True)
class TracedSample:
    """A sample that is kept: its tokens as (text, kind)."""

    name: str
    example: Example
    pieces: list[tuple[str, str]]

    @property
    def size(self) -> str:
        cut = ", cut to data.max_tokens" if self.example.truncated else ""
        return f"{len(self.example.input_ids)} tokens, {np.count_nonzero(self.example.target)} trained{cut}"


@dataclass(frozen=True)
class Traced:
    """What became of a record."""

    place: str
    samples: list[TracedSample]
    refusals: list[Refusal]
    findings: Counter[str]
    tags: tuple[str, ...]
    notes: tuple[Note, ...]
    """What of the record was not read, and what was guessed."""


class Tracer:
    """Reads records as prepare does."""

    def __init__(self, recipe: Recipe) -> None:
        data = recipe.data
        check_source_columns(data)
        self._data = data
        self._tokenizer = recipe_tokenizer(recipe)
        self._template = template_for(data.template, self._tokenizer)
        self.files = expand(data.sources, format=data.format, columns=data.columns)
        specials = self._template.special_tokens.texts
        plain = [rule for rule in data.rules if not isinstance(rule, AUGMENTING)]
        self._cleaners = (
            Cleaner(data.rules, seed=recipe.seed, special_tokens=specials),
            Cleaner(plain, seed=recipe.seed, special_tokens=specials),
        )

    def trace(self, raw: RawRecord) -> Traced:
        """One record through format, rules and tokenizer."""
        place = describe_line(raw.sample_id, self.files)
        file = self.files[file_and_position(raw.sample_id)[0]]
        conversations = read_raw(raw, file, reading_of(file, self._data))
        if isinstance(conversations, Refusal):
            return Traced(place, [], [conversations], Counter(), (), ())
        held_out = not self._data.eval and is_held_out(conversations[0], self._data.eval_fraction)
        if held_out:
            place += " (held out)"
        cleaned = [self._cleaners[held_out].apply(conversation) for conversation in conversations]
        refusals = [one.refusal for one in cleaned if one.refusal]
        kept_ones = [kept for one in cleaned for kept in one.conversations]
        samples: list[TracedSample] = []
        for number, kept in enumerate(kept_ones, 1):
            of = f"sample {number} of {len(kept_ones)}, " if len(kept_ones) > 1 else ""
            found = self._samples(kept, f"{place}, {of}" if of else f"{place} ")
            if isinstance(found, Refusal):
                refusals.append(found)
            else:
                samples += found
        tags = tuple(dict.fromkeys(tag for kept in kept_ones for tag in kept.tags))
        findings = Counter(finding for one in cleaned for finding in one.findings)
        return Traced(place, samples, refusals, findings, tags, conversations[0].notes)

    def _samples(self, conversation: Conversation, name: str) -> list[TracedSample] | Refusal:
        (result,) = encode(
            [conversation],
            self._tokenizer,
            self._template,
            train_on=self._data.train_on,
            max_tokens=self._data.max_tokens,
            over_long=self._data.over_long,
        )
        if isinstance(result, Refusal):
            return result
        return [
            TracedSample(
                f"{name}part {number} of {len(result)}: " if len(result) > 1 else name,
                example,
                list(_pieces(conversation, self._tokenizer, self._template, self._data.train_on, example)),
            )
            for number, example in enumerate(result, 1)
        ]


def _pieces(
    conversation: Conversation,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    train_on: Any,
    example: Example,
) -> Iterator[tuple[str, str]]:
    """(text, kind) of each of the example's tokens; those that share a character are one piece."""
    rendered = render(conversation, template)
    assert not isinstance(rendered, Refusal)  # encode() rendered it
    spans = trained_spans(conversation, rendered, train_on)
    assert not isinstance(spans, Refusal)
    tokens = tokenize(tokenizer, [rendered.text])
    _, straddles = locate([rendered.text], tokens, [spans])
    raw = rendered.text.encode() if tokens.in_bytes[0] else rendered.text
    own = slice(example.start, example.start + len(example.input_ids))
    done = int(tokens.starts[own][0])
    for end, trained, straddling in zip(tokens.ends[own].tolist(), example.target, straddles[own], strict=True):
        piece = raw[done:end]
        try:
            text = piece.decode() if isinstance(piece, bytes) else piece
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and end < tokens.ends[own][-1]:
                continue  # the character goes on in the next token
            text = raw[done:end].decode(errors="replace")  # type: ignore[union-attr]
        done = max(done, end)
        yield text, "straddling" if straddling else "trained" if trained else "plain"
