"""The texts of a conversation: read, rewritten, and cut into words. Knows no rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from operator import is_
from typing import Any, NamedTuple

from raysft.data.records import Conversation, Message

SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Chinese characters
)
"""A character class (inside []): scripts that write no space between words. Korean does."""

_SPACELESS = re.compile(f"[{SPACELESS}]")
_ASCII_UNITS = re.compile(r"\w+", re.ASCII)
_UNITS = re.compile(rf"[{SPACELESS}]|[^\W{SPACELESS}]+")


class TextSpan(NamedTuple):
    """A part of a text and what was found there."""

    start: int
    end: int
    kind: str


def is_spaceless(text: str) -> bool:
    """Is most of the text in scripts without spaces?"""
    return not text.isascii() and 3 * len(_SPACELESS.findall(text)) > len(text)


def units(text: str) -> list[str]:
    """The words of a text; characters where the script has no spaces."""
    return (_ASCII_UNITS if text.isascii() else _UNITS).findall(text)


def texts(conversation: Conversation, *, arguments: bool = False) -> list[str]:
    """All texts: messages and candidates, and on request every value in the arguments of tool calls."""
    messages = list(conversation.messages)
    for candidate in conversation.candidates:  # `messages` ends in one of them
        messages += [message for message in candidate.messages if message not in conversation.messages]
    found = [text for message in messages for text in (message.content, message.reasoning) if text]
    if arguments:
        found += [leaf for message in messages for call in message.tool_calls for leaf in _leaves(_arguments(call))]
    return found


def rewrite(
    conversation: Conversation,
    change: Callable[[str], str],
    *,
    roles: Iterable[str] = (),
    arguments: bool = False,
) -> Conversation:
    """Every text through `change` (of `roles` only, if given). The same object when nothing changes."""
    one = partial(_rewrite_message, change=change, roles=tuple(roles), arguments=arguments)
    messages = tuple(map(one, conversation.messages))
    candidates = tuple(
        replace(candidate, messages=tuple(map(one, candidate.messages))) for candidate in conversation.candidates
    )
    same = all(map(is_, messages, conversation.messages)) and candidates == conversation.candidates
    return conversation if same else replace(conversation, messages=messages, candidates=candidates)


def tagged(conversation: Conversation, tag: str) -> Conversation:
    """With a tag more, unless it has it."""
    return conversation if tag in conversation.tags else replace(conversation, tags=(*conversation.tags, tag))


def answer_of(conversation: Conversation) -> Message:
    """The last assistant message, or the plain text."""
    return conversation.messages[conversation.last_assistant]


def prompt_of(conversation: Conversation) -> tuple[Message, ...]:
    """Everything before the last answer."""
    return conversation.messages[: conversation.last_assistant]


def longest_first(spans: Iterable[TextSpan], length: int) -> list[TextSpan]:
    """Spans of a text of `length` without those that overlap a longer one, in the text's order."""
    taken = bytearray(length)
    kept = []
    for span in sorted(spans, key=lambda span: span.start - span.end):  # stable: among equals the first given
        if not any(taken[span.start : span.end]):
            taken[span.start : span.end] = b"\1" * (span.end - span.start)
            kept.append(span)
    return sorted(kept)


def _rewrite_message(
    message: Message, change: Callable[[str], str], roles: tuple[str, ...], arguments: bool
) -> Message:
    if roles and message.role not in roles:
        return message
    content = change(message.content)
    reasoning = change(message.reasoning) if message.reasoning else ""
    calls = message.tool_calls
    if arguments and calls:
        calls = tuple(_with_arguments(call, _rewrite_leaves(_arguments(call), change)) for call in calls)
    if (content, reasoning, calls) == (message.content, message.reasoning, message.tool_calls):
        return message
    return replace(message, content=content, reasoning=reasoning, tool_calls=calls)


def _arguments(call: dict[str, Any]) -> Any:
    function = call.get("function")
    return function.get("arguments") if isinstance(function, dict) else None


def _with_arguments(call: dict[str, Any], arguments: Any) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or function.get("arguments") == arguments:
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _leaves(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys too, and whole numbers as text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield str(value)


def _rewrite_leaves(value: Any, change: Callable[[str], str]) -> Any:
    """The value with each text changed; a number stays one unless its digits change."""
    if isinstance(value, dict):
        return {change(str(key)): _rewrite_leaves(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rewrite_leaves(inner, change) for inner in value]
    if isinstance(value, str):
        return change(value)
    if isinstance(value, int) and not isinstance(value, bool):
        changed = change(str(value))
        return value if changed == str(value) else changed
    return value
