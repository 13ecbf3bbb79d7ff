"""What a template left out of a record: each text, call, tool and reasoning must stand in the rendered text. Pure.

Looked for in the order of the messages, so that a short text is not found in another's. What may differ: white space
around a text; a text written as JSON; a system text and tools anywhere; of calls and tools, the layout (names, keys
and values are looked for one by one, and ids of calls may be missing). The reasoning of a turn that is not trained
may be missing: templates drop it where generation would not see it either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raysft.data.records import Conversation, Message, Refusal
from raysft.data.text.regions import Region
from raysft.data.text.template import Template

_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


def omission(conversation: Conversation, template: Template, text: str, trained: Sequence[Region]) -> Refusal | None:
    """The first thing of the record that is not in `text`; None: all of it is. trained: what of the text is."""
    place = 0
    messages = conversation.messages
    for index, message in enumerate(messages):
        content = message.content.strip()
        if message.reasoning or message.tool_calls or not content:
            found = _find_parts(text, place, message, _is_in(index, trained))
        else:
            found = text.find(content, place)
            if found >= 0:
                place = found + len(content)
                continue
            found = _find_rewritten(text, place, message, _is_in(index, trained))
        if isinstance(found, str):
            return _refusal(template, f"{found} of message {index + 1} ({message.role})", _way_out(found, messages))
        place = max(place, found)
    for tool in conversation.tools:
        if missing := _missing_of_tool(text, tool):
            named = tool.get("function", tool).get("name", "?")
            return _refusal(template, f"{missing} of the tool {named!r}", "a template that writes tools")
    return None


def _is_in(index: int, regions: Sequence[Region]) -> bool:
    return any(region.message == index for region in regions)


def _find_parts(text: str, place: int, message: Message, is_trained: bool) -> int | str:
    """The end of a turn of several parts, or the name of the missing one."""
    found = _find_answer(text, place, message.reasoning, message.content, is_trained)
    if found == "the text" and message.role != "tool":
        found = _find_rewritten(text, place, message, is_trained)
    if isinstance(found, str):
        return found
    place = found
    for call in message.tool_calls:
        function = call["function"]
        for part in (function["name"], *_leaves(function.get("arguments"))):
            if _find(text, part, place) < 0:
                return "a tool call"
        place = max(place, _find(text, function["name"], place))
    return place


def _find_answer(text: str, place: int, reasoning: str, answer: str, is_trained: bool) -> int | str:
    """The end of an answer behind its reasoning. Reasoning that stands only behind the answer is another turn's."""
    thought = _find(text, reasoning, place) if reasoning.strip() else place
    found = _find(text, answer, thought) if thought >= 0 else -1
    if found >= 0:
        return found
    found = _find(text, answer, place)
    if found < 0:
        return "the text"
    return "the reasoning" if is_trained else found


def _find_rewritten(text: str, place: int, message: Message, is_trained: bool) -> int | str:
    """The end of a message's text: as it is, as JSON, for a system text anywhere; the parts of a text that has a
    think block apart."""
    found = _find(text, message.content, place)
    if found < 0 and message.role == "system" and _find(text, message.content, 0) >= 0:
        return place
    if found < 0 and message.role == "assistant" and _THINK_CLOSE in message.content:
        thought, _, answer = message.content.partition(_THINK_CLOSE)
        return _find_answer(text, place, thought.rpartition(_THINK_OPEN)[2], answer, is_trained)
    return found if found >= 0 else "the text"


def _find(text: str, wanted: str, place: int) -> int:
    """The end of `wanted` in the text from `place` on, -1: it is not there. White space around it may be missing."""
    core = wanted.strip()
    for form in (core, json.dumps(core, ensure_ascii=False)[1:-1], json.dumps(core)[1:-1]):
        found = text.find(form, place)
        if found >= 0:
            return found + len(form)
    return -1


def _leaves(value: Any) -> Iterator[str]:
    """Keys and values of JSON as texts that any layout writes: true may be True, null None."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, bool):
        yield str(value).lower()[1:]
    elif isinstance(value, int):
        yield str(value)


def _missing_of_tool(text: str, tool: Mapping[str, Any]) -> str | None:
    function = tool.get("function", tool)
    if not isinstance(function, Mapping):
        return None
    if _find(text, str(function.get("name", "")), 0) < 0:
        return "the name"
    if isinstance(told := function.get("description"), str) and _find(text, told, 0) < 0:
        return "the description"
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    names = properties if isinstance(properties, Mapping) else {}
    return next((f"the parameter {name!r}" for name in names if _find(text, str(name), 0) < 0), None)


def _way_out(missing: str, messages: Sequence[Message]) -> str:
    if missing == "a tool call":
        return "a template that writes calls (qwen3, llama3, mistral, or the tokenizer's `tool_use`)"
    if missing == "the reasoning":
        answers = sum(message.role == "assistant" for message in messages)
        later = "data.train_on: last, if only earlier turns lose theirs; " if answers > 1 else ""
        return f"{later}a template that writes `reasoning_content` (qwen3), or the reasoning inside the text"
    return "a template that writes every message as it is"


def _refusal(template: Template, missing: str, way_out: str) -> Refusal:
    return Refusal("left_out", f"the template {template.name!r} leaves out {missing}; what would keep it: {way_out}")
