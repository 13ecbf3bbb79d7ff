"""Conversation -> token ids + target mask: rendered and tokenized ONCE, whole, cut where answers begin. Pure.

Owns which answers are trained, that they end in a stop, and the step from their regions to a mask over tokens. Text
and regions come from rendering.py, token positions from offsets.py, the cuts from borders.py; what becomes of a
sample that is too long is fitting.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raysft.data.records import Conversation, Refusal
from raysft.data.text.backend import Tokenizing
from raysft.data.text.borders import added_ids, cut
from raysft.data.text.fitting import CUT, STRADDLES, UNKNOWN, Example, OverLong, Turn, cut_text, split, truncate
from raysft.data.text.offsets import Span, Tokens, byte_places, locate, tokenize, unknown_id
from raysft.data.text.omissions import omission
from raysft.data.text.parts import has_parts, trained_spans
from raysft.data.text.plain_text import between_ends, with_ends
from raysft.data.text.regions import Region
from raysft.data.text.rendering import (
    BUILT_IN,
    Rendered,
    SpecialTokens,
    Template,
    render,
    render_prompt,
    resolve_template,
    special_tokens_in,
)
from raysft.data.text.tokenizer_bounds import bounded
from raysft.data.text.writing import write_marked
from raysft.errors import DataError

Stop = Literal["refuse", "append", "accept"]

__all__ = [
    "BUILT_IN",
    "Example",
    "OverLong",
    "Rendered",
    "SpecialTokens",
    "Stop",
    "Template",
    "encode",
    "render",
    "render_prompt",
    "resolve_template",
    "special_tokens_in",
    "trained_regions",
]


class _Ready(NamedTuple):
    """A conversation's text, and what of it is trained: spans in order. `ends`: ids around plain text. `appended`:
    where ends of text were put into what the template had written (`written`, empty: into nothing). `begins`: where
    answers begin, if they are trained in parts."""

    text: str
    spans: list[Span]
    template: Template
    ends: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    appended: tuple[int, ...] = ()
    written: str = ""
    begins: tuple[int, ...] = ()


def trained_regions(
    conversation: Conversation, rendered: Rendered, train_on: Literal["all", "last"]
) -> list[Region] | Refusal:
    """Which regions are trained: `train_on`, and `train: false` of a message."""
    messages, regions = conversation.messages, rendered.regions
    if train_on == "all" and False not in [message.train for message in messages]:
        return [region for region in regions if region[1] > region[0]]
    turns = [index for index, message in enumerate(messages) if message.role in ("assistant", "text")]
    wanted = {index for index in turns if messages[index].train is not False}
    if any(region.message < 0 for region in regions):
        return Refusal("template_refused", "to choose turns, each needs a generation block of its own")
    if train_on == "last":
        wanted &= set(turns[-1:])
    return [region for region in regions if region.message in wanted and region.end > region.start]


def encode(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizing,
    template: Template,
    *,
    train_on: Literal["all", "last"],
    max_tokens: int,
    over_long: OverLong,
    stop: Stop = "refuse",
) -> list[tuple[Example, ...] | Refusal]:
    """The Examples of each conversation (one, or several where it is split), or a Refusal; in order.

    Raises DataError where a trained answer does not end in a stop and `stop` is `refuse`.
    """
    rendered = [render(conversation, template) for conversation in conversations]
    prepared = [
        found if isinstance(found, Refusal) else _prepare(conversation, found, tokenizer, template, train_on, stop)
        for conversation, found in zip(conversations, rendered, strict=True)
    ]
    ready = [found for found in prepared if not isinstance(found, Refusal)]
    texts, spans = [found.text for found in ready], [found.spans for found in ready]
    begins = [found.begins or [start for start, _ in found.spans] for found in ready]
    with bounded(tokenizer.name_or_path):
        tokens, cut_places = cut(tokenizer, texts, tokenize(tokenizer, texts), begins)
    target, straddles = locate(texts, tokens, spans)
    for number in [number for number, found in enumerate(ready) if found.begins]:
        own = slice(int(tokens.bounds[number]), int(tokens.bounds[number + 1]))
        target[own] |= straddles[own]  # what reaches into a trained part is trained
    target[tokens.bounds[:-1][np.diff(tokens.bounds) > 0]] = False  # nothing predicts a segment's first token
    weights = target.astype(np.float32)
    flags = _flags(tokenizer, texts, tokens, straddles)
    num_targets = np.diff(np.concatenate(([0], np.cumsum(target)))[tokens.bounds]).tolist()
    bounds = tokens.bounds.tolist()
    results: list[tuple[Example, ...] | Refusal] = []
    place = 0
    for conversation, found in zip(conversations, prepared, strict=True):
        if isinstance(found, Refusal):
            results.append(found)
            continue
        own = slice(bounds[place], bounds[place + 1])
        if cut_places[place]:
            begins = np.asarray(cut_places[place]) + tokens.bases[place]
            flags[own] |= np.isin(tokens.starts[own], begins).astype(np.uint8) * np.uint8(CUT)
        whole = Example(conversation.id, tokens.ids[own], weights[own], flags[own], template=found.template.name)
        if found.ends is not None:
            whole = with_ends(whole, *found.ends)
        if not num_targets[place] and not np.any(whole.target):
            results.append(Refusal("no_target_tokens", "no token is trained"))
        elif len(whole.input_ids) <= max_tokens:
            results.append((whole,))
        else:
            is_text = found.ends is not None
            turns = _turns(conversation, found, tokens, place) if over_long == "truncate" and not is_text else ()
            results.append(_fit(whole, over_long, max_tokens, turns, is_text=is_text))
        place += 1
    return results


def _prepare(
    conversation: Conversation,
    rendered: Rendered,
    tokenizer: Tokenizing,
    template: Template,
    train_on: Literal["all", "last"],
    stop: Stop,
) -> _Ready | Refusal:
    regions = trained_regions(conversation, rendered, train_on)
    if isinstance(regions, Refusal):
        return regions
    if not regions:
        return Refusal("no_target_tokens", "no assistant turn is trained")
    if not _encodable(rendered.text):
        return Refusal("invalid_unicode", "the text holds a lone surrogate")
    if conversation.messages[0].role == "text":
        special = template.special_tokens
        text, ends = between_ends(rendered.text, conversation.messages[0].content, tokenizer, special)
        return _Ready(text, [(0, len(text))], template, ends)
    own = template.for_record(conversation)
    if left_out := omission(conversation, own, rendered.text, regions):
        return left_out
    if stop != "accept" and False in [region.stops for region in regions]:
        if stop == "refuse":
            raise _does_not_stop(rendered, regions, own)
        if has_parts(conversation):
            return Refusal("cannot_be_masked", "`train_detail` trains parts of an answer, to which data.stop appends")
        return _with_stops(rendered.text, regions, own)
    if has_parts(conversation):
        spans = trained_spans(conversation, rendered.text, regions)
        begins = tuple(region.start for region in regions)
        return spans if isinstance(spans, Refusal) else _Ready(rendered.text, spans, own, begins=begins)
    return _Ready(rendered.text, [(region.start, region.end) for region in regions], own)


def _with_stops(text: str, regions: Sequence[Region], template: Template) -> _Ready:
    """The text with the end of text put after each trained answer that has no stop."""
    end_of_text = template.special_tokens.end_of_text
    if not end_of_text:
        raise DataError(
            "there is no token to append to the answers (data.stop: append)",
            got="a tokenizer without an eos_token",
            expected="a tokenizer that says which token ends a text",
            fix="set eos_token in the tokenizer's files, or data.stop: accept",
        )
    pieces, spans = [], []
    done = shift = 0
    for region in regions:
        more = "" if region.stops else end_of_text
        pieces += [text[done : region.end], more]
        spans.append((region.start + shift, region.end + shift + len(more)))
        done, shift = region.end, shift + len(more)
    appended = tuple(region.end for region in regions if not region.stops)
    return _Ready("".join([*pieces, text[done:]]), spans, template, None, appended, text)


def _does_not_stop(rendered: Rendered, regions: Sequence[Region], template: Template) -> DataError:
    region = next(region for region in regions if not region.stops)
    special = template.special_tokens
    others = [other for other in regions if other.stops]
    stops = list(dict.fromkeys([*special.stops, *filter(None, [special.end_of_text])]))
    answer, after = rendered.text[region.start : region.end], rendered.text[region.end : region.end + 20]
    last = "data.train_on: last trains only the answers that end in one; " if others else ""
    return DataError(
        "a trained answer does not end in a token that generation stops at: the model would not learn to stop",
        got=f"the template {template.name!r} writes {after!r} after the answer {answer[-40:]!r}",
        expected=f"one of {', '.join(stops)} right after it" if stops else "a stop token; the tokenizer names none",
        fix=f"write it in the template; {last}data.stop: append puts "
        f"{special.end_of_text or 'the end of text'} after each trained answer; data.stop: accept trains without",
    )


def _flags(
    tokenizer: Tokenizing, texts: Sequence[str], tokens: Tokens, straddles: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Which tokens straddle a border, and which are unknown."""
    if straddles.any():  # an end of turn that takes the white space behind it (Phi-3) is an end of turn
        straddles = straddles & ~np.isin(tokens.ids, list(added_ids(tokenizer)))
    flags = straddles.view(np.uint8) * np.uint8(STRADDLES)
    if (unknown := unknown_id(tokenizer)) is not None:
        flags |= (tokens.ids == unknown).view(np.uint8) * np.uint8(UNKNOWN)
    for index in np.flatnonzero(~tokens.in_bytes).tolist():
        own = slice(int(tokens.bounds[index]), int(tokens.bounds[index + 1]))
        starts, ends = tokens.starts[own] - tokens.bases[index], tokens.ends[own] - tokens.bases[index]
        reached = np.concatenate(([0], np.maximum.accumulate(ends))) if len(ends) else np.zeros(1, np.int64)
        nexts = np.concatenate((starts, [len(texts[index])]))
        for gap in np.flatnonzero(nexts > reached).tolist():
            if texts[index][int(reached[gap]) : int(nexts[gap])].strip() and own.stop > own.start:
                flags[min(own.start + gap, own.stop - 1)] |= UNKNOWN
    return flags


def _turns(conversation: Conversation, ready: _Ready, tokens: Tokens, place: int) -> list[Turn]:
    """The tokens in the texts of the turns, in order; none where a template's text does not show them."""
    own = slice(int(tokens.bounds[place]), int(tokens.bounds[place + 1]))
    starts, ends = tokens.starts[own] - tokens.bases[place], tokens.ends[own] - tokens.bases[place]
    spans = _contents(conversation, ready)
    turns = []
    for role, span in spans:
        first, last = byte_places(ready.text, span) if tokens.in_bytes[place] else list(span)
        begin = int(np.searchsorted(starts, first))
        turns.append(Turn(role, begin, max(begin, int(np.searchsorted(ends, last, side="right")))))
    return sorted(turns, key=lambda turn: turn.first)


def _contents(conversation: Conversation, ready: _Ready) -> list[tuple[str, Span]]:
    """(role, place of its text) of the messages that have one."""
    messages = conversation.messages
    indices = [index for index, message in enumerate(messages) if message.content.strip()]
    text = ready.written or ready.text
    marked = write_marked(ready.template, conversation, indices, text)
    if marked is None:
        return []
    pairs = list(zip(indices, marked.contents, strict=True))
    if any(text[a:b].strip() != messages[index].content.strip() for index, (a, b) in pairs):
        return []
    size = len(ready.template.special_tokens.end_of_text)
    shifts = [size * sum(place <= a for place in ready.appended) for _, (a, _) in pairs]
    return [(messages[i].role, (a + by, b + by)) for (i, (a, b)), by in zip(pairs, shifts, strict=True)]


def _fit(
    whole: Example, over_long: OverLong, limit: int, turns: Sequence[Turn], *, is_text: bool
) -> tuple[Example, ...] | Refusal:
    """What becomes of an example of more than `limit` tokens."""
    if over_long == "drop":
        return Refusal("over_long", f"{len(whole.input_ids)} tokens, at most {limit} fit a row")
    if over_long == "split":
        return split(whole, limit, 1 if is_text else limit // 2)
    if is_text:
        return (cut_text(whole, limit),)
    if not turns:
        return Refusal("over_long", f"{len(whole.input_ids)} tokens; the texts of its turns are not found, to be cut")
    found = truncate(whole, limit, turns)
    return found if isinstance(found, Refusal) else (found,)


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
