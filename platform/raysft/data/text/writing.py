"""What a chat template writes of messages, with or without marks, and where the marks came out. Pure.

Owns how a Message looks to a template, and the taking out of marks. What is made of the places is regions.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from raysft.data.records import Conversation, Message
from raysft.data.text.offsets import Span
from raysft.data.text.sandbox import CLOSE, MARKS, OPEN, TEMPLATE_ERRORS, TEXT_CLOSE, TEXT_OPEN, run_template, to_json
from raysft.data.text.template import Template

_ANY_MARK = re.compile(f"([{MARKS}])")


class Marked(NamedTuple):
    """A text that a template wrote, and the spans between its marks: of generation blocks, of messages' texts."""

    text: str
    blocks: Sequence[Span]
    contents: Sequence[Span] = ()


def write(
    template: Template, conversation: Conversation, messages: Sequence[Message], *, prompt: bool = False
) -> list[str]:
    """The text of some messages in pieces, marks of generation blocks among them. Raises TEMPLATE_ERRORS.

    prompt: with the beginning of the answer that a model is then to give (`add_generation_prompt`).
    """
    variables = {
        **template.special_tokens.by_name,
        "messages": [_as_dict(message) for message in messages],
        "tools": list(conversation.tools) or None,
        "add_generation_prompt": prompt,
    }
    return run_template(template.text, variables)


def write_prompt(template: Template, conversation: Conversation, index: int) -> str | None:
    """The text that a model sees before it generates message `index`; None: the template refuses to write it."""
    try:
        written = "".join(write(template, conversation, conversation.messages[:index], prompt=True))
    except TEMPLATE_ERRORS:
        return None
    return _ANY_MARK.sub("", written)


def write_until(template: Template, conversation: Conversation, index: int) -> str | None:
    """The text of the messages before message `index`; None: the template refuses to write it."""
    try:
        written = "".join(write(template, conversation, conversation.messages[:index]))
    except TEMPLATE_ERRORS:
        return None
    return _ANY_MARK.sub("", written)


def write_marked(template: Template, conversation: Conversation, indices: Sequence[int], plain: str) -> Marked | None:
    """The text with the places of some messages' contents; None: they cannot be found. Raises TEMPLATE_ERRORS.

    Marks go around the whole content first; a template that trims its turns changes that text, so then around the
    content without outer white space. If neither leaves the text `plain`, the template rewrites turns.
    """
    for trimmed in (False, True):
        messages = list(conversation.messages)
        for index in indices:
            messages[index] = _with_marks(messages[index], trimmed)
        marked = unmark(write(template, conversation, messages), contents=True)
        if marked is not None and marked.text == plain and len(marked.contents) == len(indices):
            return marked
    return None


def unmark(written: Sequence[str], *, contents: bool = False) -> Marked | None:
    """Take the marks out of what a template wrote and note where they were. None: they do not come in pairs.

    contents: marks around messages' texts, too; without it there are only those of generation blocks.
    """
    if not contents:
        return _between(written, OPEN, CLOSE)
    whole = "".join(written)
    inner = _between([whole], TEXT_OPEN, TEXT_CLOSE)
    outer = _between([whole.replace(TEXT_OPEN, "").replace(TEXT_CLOSE, "")], OPEN, CLOSE)
    if inner is None or outer is None:
        return None
    return Marked(outer.text, outer.blocks, [(_bare(inner.text, a), _bare(inner.text, b)) for a, b in inner.blocks])


def _between(written: Sequence[str], opening: str, closing: str) -> Marked | None:
    """The text without the marks, and the spans between them. Most marks are pieces by themselves."""
    pieces: list[str] = []
    spans: list[Span] = []
    start, length = -1, 0  # start: of the span that is open
    for piece in written:
        if piece.isascii() or (opening not in piece and closing not in piece):
            pieces.append(piece)
            length += len(piece)
        elif piece == opening and start < 0:
            start = length
        elif piece == closing and start >= 0:
            spans.append((start, length))
            start = -1
        else:
            return _between_inside("".join(written), opening, closing)
    return Marked("".join(pieces), spans) if start < 0 else None


def _between_inside(whole: str, opening: str, closing: str) -> Marked | None:
    """_between, wherever the marks stand."""
    first, *others = whole.split(opening)
    if closing in first:
        return None
    pieces, spans, length = [first], [], len(first)
    for other in others:
        inside, mark, after = other.partition(closing)
        if not mark or closing in after:
            return None
        spans.append((length, length + len(inside)))
        pieces += (inside, after)
        length += len(inside) + len(after)
    return Marked("".join(pieces), spans)


def _bare(text: str, place: int) -> int:
    """A place in a text as the one in the text without marks of generation blocks."""
    return place - text.count(OPEN, 0, place) - text.count(CLOSE, 0, place)


def own_texts(conversation: Conversation) -> Iterator[str]:
    """Everything that a template may write of a conversation, but for its roles."""
    for message in conversation.messages:
        yield message.content
        if message.reasoning:
            yield message.reasoning
        if message.name:
            yield message.name
        if message.tool_calls:
            yield to_json(message.tool_calls)
        if message.tool_call_id:
            yield message.tool_call_id
    if conversation.tools:
        yield to_json(conversation.tools)


def holds_marks(conversation: Conversation) -> bool:
    """Is one of the marks written in the record itself?"""
    for message in conversation.messages:  # the most common turns are seen without a generator
        others = message.tool_calls or message.reasoning or message.name or message.tool_call_id
        if others or not message.content.isascii():
            break
    else:
        if not conversation.tools:
            return False
    return any(not text.isascii() and _ANY_MARK.search(text) for text in own_texts(conversation))


@lru_cache(maxsize=128)
def _special_pattern(specials: tuple[str, ...]) -> re.Pattern[str] | None:
    texts = sorted(filter(None, specials), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def special_tokens_in(conversation: Conversation, specials: Sequence[str]) -> str | None:
    """The first special token written in the conversation's own text: a tokenizer would read it as the control."""
    pattern = _special_pattern(tuple(specials))
    if pattern is None:
        return None
    for text in own_texts(conversation):
        if found := pattern.search(text):
            return found[0]
    return None


def without_special_tokens(text: str, specials: Sequence[str]) -> str:
    """A text as a tokenizer decodes it that leaves special tokens out."""
    pattern = _special_pattern(tuple(specials))
    return pattern.sub("", text) if pattern else text


def _as_dict(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = list(message.tool_calls)
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        found["reasoning_content"] = found["thinking"] = found["reasoning"] = message.reasoning
    if message.name:
        found["name"] = message.name
    return found


def _with_marks(message: Message, trimmed: bool) -> Message:
    core = message.content.strip() if trimmed else message.content
    before, _, after = message.content.partition(core) if core else (message.content, "", "")
    return replace(message, content=f"{before}{TEXT_OPEN}{core}{TEXT_CLOSE}{after}")
