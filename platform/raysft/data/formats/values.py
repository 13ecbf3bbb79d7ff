"""Values inside a record -> texts, roles, messages, tool calls; or a refusal. Knows no format. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysft.data.records import Candidate, Message, Refusal

Record = Mapping[str, Any]

_ROLE_OF = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


class RefusedError(Exception):
    """Carries a Refusal out of nested readers; never leaves data/formats/."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(reason, detail)


@dataclass(frozen=True)
class Content:
    """What a format's reader finds in a record."""

    messages: list[Message]
    candidates: tuple[Candidate, ...] = ()
    label: str | None = None


def require(record: Record, names: Sequence[str], format: str) -> None:
    """Refuse a record without one of these columns; `a|b` needs one of the two."""
    missing = [name for name in names if name not in record and not any(n in record for n in name.split("|"))]
    if missing:
        raise RefusedError(
            "missing_column", f"{format} needs {', '.join(missing)}; columns seen: {columns_of(record)}"
        )


def columns_of(record: Record) -> str:
    """The record's columns, for people."""
    return ", ".join(sorted(map(str, record))) or "none"


def first_of(record: Record, names: Sequence[str]) -> str | None:
    """The first of these columns that the record has and that is not null."""
    return next((name for name in names if record.get(name) is not None), None)


def read_text(value: Any, column: str, *, optional: bool = False) -> str:
    """A string, or a list of text parts joined."""
    if isinstance(value, str):
        return value
    if value is None and optional:
        return ""
    if isinstance(value, list):
        return "".join(_part(part, column) for part in value)
    raise RefusedError("wrong_type", f"`{column}` must be text, got {short(value)}")


def read_number(value: Any, column: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError("wrong_type", f"`{column}` must be a number, got {short(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RefusedError("wrong_type", f"`{column}` must be a finite number, got {short(value)}")
    return number


def read_turns(value: Any, column: str) -> list[Record]:
    """A list of objects."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise RefusedError("wrong_type", f"`{column}` must be a list of objects, got {short(value)}")
    return value


def system_turn(record: Record) -> list[Message]:
    """The `system` column as a turn, where it says something."""
    system = read_text(record.get("system"), "system", optional=True)
    return [Message("system", system)] if system else []


def read_messages(value: Any, column: str) -> list[Message]:
    """Turns as {from, value} (ShareGPT) or {role, content} (OpenAI), also mixed.

    A call that follows its own turn's text or another call without a result between them is one turn with them, as
    OpenAI writes it.
    """
    messages: list[Message] = []
    for turn in read_turns(value, column):
        message = _sharegpt_message(turn) if "from" in turn else _openai_message(turn)
        last = messages[-1] if messages else None
        if turn.get("from") == "function_call" and last and (last.role, last.train) == ("assistant", message.train):
            messages[-1] = Message("assistant", last.content, last.train, last.tool_calls + message.tool_calls)
        else:
            messages.append(message)
    return messages


def _sharegpt_message(turn: Record) -> Message:
    speaker, value = turn["from"], turn.get("value")
    if speaker == "function_call":
        calls = _decoded(value)
        return Message("assistant", "", _train_flag(turn), _tool_calls(calls if isinstance(calls, list) else [calls]))
    return Message(_role(speaker), read_text(value, "value"), _train_flag(turn))


def _openai_message(turn: Record) -> Message:
    if "role" not in turn:
        raise RefusedError("wrong_type", f"a turn needs `role` or `from`, got the keys {columns_of(turn)}")
    role = _role(turn["role"])
    calls = _tool_calls(turn.get("tool_calls") or ())
    content = read_text(turn.get("content"), "content", optional=bool(calls))
    return Message(role, content, _train_flag(turn), calls, str(turn.get("tool_call_id") or ""))


def _role(name: Any) -> str:
    if not isinstance(name, str) or name not in _ROLE_OF:
        raise RefusedError("unknown_role", f"role {short(name)}; expected one of {', '.join(_ROLE_OF)}")
    return _ROLE_OF[name]


def _train_flag(turn: Record) -> bool | None:
    """`train: bool`, or OpenAI's `weight: 0 | 1`."""
    flag = turn.get("train")
    if flag is None and turn.get("weight") is not None:
        flag = turn["weight"]
        if flag not in (0, 1):
            raise RefusedError("wrong_type", f"`weight` must be 0 or 1, got {short(flag)}")
        return bool(flag)
    if flag is not None and not isinstance(flag, bool):
        raise RefusedError("wrong_type", f"`train` must be true or false, got {short(flag)}")
    return flag


def _part(part: Any, column: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else part
    raise RefusedError("unsupported_content", f"`{column}` has a part of type {short(kind)}; only text is read")


def _tool_calls(calls: Any) -> tuple[dict[str, Any], ...]:
    """To `{type: function, function: {name, arguments}}`; arguments decoded when they are JSON text."""
    if not isinstance(calls, list | tuple):
        raise RefusedError("wrong_type", f"`tool_calls` must be a list, got {short(calls)}")
    found = []
    for call in map(_decoded, calls):
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise RefusedError("wrong_type", f"a tool call needs a name, got {short(call)}")
        arguments = _decoded(inner.get("arguments", {}))
        nested = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
        found.append({**nested, "id": str(call["id"])} if call.get("id") else nested)
    return tuple(found)


def read_tools(value: Any) -> tuple[dict[str, Any], ...]:
    """To a tuple of `{type: function, function: {...}}`."""
    value = _decoded(value)
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RefusedError("wrong_type", f"`tools` must be a list of objects, got {short(value)}")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in value)


def _decoded(value: Any) -> Any:
    """JSON text decoded; other text and other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def short(value: Any) -> str:
    """A value for an error text."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
