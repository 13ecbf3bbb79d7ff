"""Conversation -> token ids + target mask: rendered and tokenized ONCE, whole (the mask law). Pure.

Owns which answers are trained, the step from their spans to a mask over tokens, and what becomes of a sample that is
too long. Text and spans come from rendering.py, token positions from offsets.py.
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
    special_tokens_in,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OverLong = Literal["drop", "truncate", "split"]
_TRAINED = ("assistant", "text")

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
    "special_tokens_in",
    "trained_spans",
]


@dataclass(frozen=True)
class Example:
    """One tokenized conversation, or the part of it from its token `start` on. `target` holds a weight per token;
    0: not trained. `truncated`: tokens were lost."""

    sample_id: int
    input_ids: NDArray[np.int32]
    target: NDArray[np.float32]
    straddles: int
    truncated: bool
    start: int = 0


def trained_spans(
    conversation: Conversation, rendered: Rendered, train_on: Literal["all", "last"]
) -> list[Span] | Refusal:
    """Which of the answers' spans are trained: `train_on`, and `train: false` of a message."""
    wanted = [message.train is not False for message in conversation.messages if message.role in _TRAINED]
    spans = list(rendered.answers)
    if len(spans) != len(wanted):
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
    over_long: OverLong,
) -> list[tuple[Example, ...] | Refusal]:
    """The Examples of each conversation (one, or several where it is split), or a Refusal; in order."""
    prepared = [_text_and_spans(conversation, template, train_on) for conversation in conversations]
    ready = [found for found in prepared if not isinstance(found, Refusal)]
    texts, spans = [text for text, _ in ready], [own for _, own in ready]
    tokens = tokenize(tokenizer, texts)
    target, straddles = locate(texts, tokens, spans)
    target[tokens.bounds[:-1][np.diff(tokens.bounds) > 0]] = False  # nothing predicts a segment's first token
    weights = target.astype(np.float32)
    num_targets = np.diff(np.concatenate(([0], np.cumsum(target)))[tokens.bounds]).tolist()
    num_straddles = np.diff(np.concatenate(([0], np.cumsum(straddles)))[tokens.bounds]).tolist()
    bounds = tokens.bounds.tolist()
    results: list[tuple[Example, ...] | Refusal] = []
    place = 0
    for conversation, found in zip(conversations, prepared, strict=True):
        if isinstance(found, Refusal):
            results.append(found)
            continue
        own = slice(bounds[place], bounds[place + 1])
        whole = Example(conversation.id, tokens.ids[own], weights[own], num_straddles[place], truncated=False)
        if not num_targets[place]:
            results.append(Refusal("no_target_tokens", "no token is trained"))
        elif own.stop - own.start <= max_tokens:
            results.append((whole,))
        else:
            context = 1 if conversation.messages[0].role == "text" else max_tokens // 2
            results.append(_fit(whole, straddles[own], over_long, max_tokens, context))
        place += 1
    return results


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


def _fit(
    whole: Example, straddles: NDArray[np.bool_], over_long: OverLong, limit: int, context: int
) -> tuple[Example, ...] | Refusal:
    """What becomes of an example of more than `limit` tokens. A split's windows share `context` tokens."""
    if over_long == "drop":
        return Refusal("over_long", f"{len(whole.input_ids)} tokens, at most {limit} fit a row")
    targets = np.flatnonzero(whole.target)
    if over_long == "truncate":
        # From the front as many as need be, but one token must stay before the first target: it is predicted.
        start = min(len(whole.input_ids) - limit, int(targets[0]) - 1)
        return (_part(whole, straddles, start, start + limit, new=start, truncated=True),)
    windows: list[Example] = []
    done = 0
    while (first := int(np.searchsorted(targets, done))) < len(targets):
        start = max(0, int(targets[first]) - context) if done or targets[first] >= limit else 0
        windows.append(_part(whole, straddles, start, start + limit, new=max(done, start), truncated=False))
        done = start + limit
    return tuple(windows)


def _part(
    whole: Example, straddles: NDArray[np.bool_], start: int, stop: int, *, new: int, truncated: bool
) -> Example:
    """Tokens [start, stop), trained from `new` on."""
    target = whole.target[start:stop].copy()
    target[: new - start] = 0.0
    num_straddles = int(straddles[new:stop].sum())
    return Example(whole.sample_id, whole.input_ids[start:stop], target, num_straddles, truncated, start)


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
