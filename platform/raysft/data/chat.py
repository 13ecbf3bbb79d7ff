"""Conversation -> token ids + target mask: rendered and tokenized ONCE, whole (the mask law). Pure.

Owns which answers are trained and the step from their spans to a mask over tokens. Text and spans come from
rendering.py, token positions from offsets.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from raysft.data.offsets import Span, locate, tokenize
from raysft.data.records import Conversation, Refusal
from raysft.data.rendering import (
    BUILT_IN,
    Rendered,
    SpecialTokens,
    Template,
    render,
    render_prompt,
    resolve_template,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "BUILT_IN",
    "Example",
    "Rendered",
    "SpecialTokens",
    "Template",
    "encode",
    "render",
    "render_prompt",
    "resolve_template",
    "trained_spans",
]


@dataclass(frozen=True)
class Example:
    """One tokenized conversation. `target` holds a weight per token; 0: not trained."""

    sample_id: int
    input_ids: NDArray[np.int32]
    target: NDArray[np.float32]
    straddles: int
    truncated: bool


def trained_spans(
    conversation: Conversation, rendered: Rendered, train_on: Literal["all", "last"]
) -> list[Span] | Refusal:
    """Which of the answers' spans are trained: `train_on`, and `train: false` of a message."""
    turns = [message for message in conversation.messages if message.role == "assistant"]
    spans = list(rendered.answers)
    wanted = [message.train is not False for message in turns]
    if len(spans) != len(turns):
        if train_on == "last" or not all(wanted):
            return Refusal("template_refused", "to choose turns, each needs a generation block of its own")
        wanted = [True] * len(spans)
    if train_on == "last":
        wanted[:-1] = [False] * len(wanted[:-1])
    return [span for span, trained in zip(spans, wanted, strict=True) if trained and span[1] > span[0]]


def encode(
    conversations: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    *,
    train_on: Literal["all", "last"],
    max_tokens: int,
    over_long: Literal["drop", "truncate"],
) -> list[Example | Refusal]:
    """One Example or Refusal per conversation, in order."""
    results: dict[int, Example | Refusal] = {}
    texts: list[str] = []
    waiting: list[tuple[int, list[Span]]] = []
    for index, conversation in enumerate(conversations):
        prepared = _text_and_spans(conversation, template, train_on)
        if isinstance(prepared, Refusal):
            results[index] = prepared
        else:
            texts.append(prepared[0])
            waiting.append((index, prepared[1]))
    for (index, spans), text, tokens in zip(waiting, texts, tokenize(tokenizer, texts), strict=True):
        target, straddles = locate(text, tokens, spans)
        results[index] = _example(
            conversations[index].id, tokens.ids, target, straddles, limit=max_tokens, over_long=over_long
        )
    return [results[index] for index in range(len(conversations))]


def _text_and_spans(
    conversation: Conversation, template: Template, train_on: Literal["all", "last"]
) -> tuple[str, list[Span]] | Refusal:
    rendered = render(conversation, template)
    if isinstance(rendered, Refusal):
        return rendered
    spans = trained_spans(conversation, rendered, train_on)
    if isinstance(spans, Refusal):
        return spans
    if not spans:
        return Refusal("no_target_tokens", "no assistant turn is trained")
    if not _encodable(rendered.text):
        return Refusal("invalid_unicode", "the text holds a lone surrogate")
    return rendered.text, spans


def _example(
    sample_id: int,
    ids: NDArray[np.int32],
    target: NDArray[np.bool_],
    straddles: NDArray[np.bool_],
    *,
    limit: int,
    over_long: Literal["drop", "truncate"],
) -> Example | Refusal:
    truncated = len(ids) > limit
    if truncated and over_long == "drop":
        return Refusal("over_long", f"{len(ids)} tokens, at most {limit} fit a row")
    ids, straddles, weights = ids[:limit], straddles[:limit], target[:limit].astype(np.float32)
    weights[:1] = 0.0  # nothing predicts a segment's first token
    if not weights.any():
        return Refusal("no_target_tokens", "no token is trained" + (" before the cut" if truncated else ""))
    return Example(sample_id, ids, weights, int(straddles.sum()), truncated)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
