"""Record formats: Alpaca, ShareGPT and OpenAI messages -> Conversation. Pure.

Every reader ends in a Conversation; nothing after this module knows which format a record had. A record that
cannot be one becomes a `Refusal`: a value, because refusals are counted, not raised. Reading files is
sources.py, turning a conversation into tokens is chat.py.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from typing import Any

from raysft.data.records import Conversation, Message, Refusal
from raysft.errors import DataError

_FIELDS = {
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "sharegpt": ("conversations", "messages", "system", "tools"),
    "messages": ("messages", "tools"),
}
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
_EXPECTED = (
    "alpaca {instruction, input, output}, sharegpt {conversations: [{from, value}]} or "
    "messages {messages: [{role, content}]}"
)


class _RefusedError(Exception):
    """Carries a Refusal out of nested readers; never leaves this module."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(reason, detail)


def check_columns(columns: Mapping[str, str], format: str = "auto") -> None:
    """Raise DataError when `data.columns` maps a name that the format does not have."""
    chosen = _FIELDS.values() if format == "auto" else (_FIELDS[format],)
    known = sorted({name for fields in chosen for name in fields})
    for name in columns:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise DataError(
                f"data.columns maps {name!r}, which no record format has",
                got=f"{name}: {columns[name]}",
                expected=f"format's name -> file's name; names: {', '.join(known)}",
                fix=f"did you mean {near[0]!r}?" if near else "map one of these names to your file's column",
            )


def rename(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The record under the format's names; a mapped file column gives up its own name."""
    taken = set(columns.values())
    renamed = {name: value for name, value in record.items() if name not in taken}
    renamed.update({name: record[column] for name, column in columns.items() if column in record})
    return renamed


def detect_format(record: Mapping[str, Any]) -> str | Refusal:
    """The format's name, judged by this record's columns alone."""
    turns = record.get("messages")
    if isinstance(turns, list):
        keyed_by_role = any(isinstance(turn, dict) and "role" in turn for turn in turns)
        return "messages" if keyed_by_role or not turns else "sharegpt"
    if isinstance(record.get("conversations"), list):
        return "sharegpt"
    if "instruction" in record and "output" in record:
        return "alpaca"
    seen = ", ".join(sorted(map(str, record))) or "none"
    return Refusal("unknown_format", f"columns seen: {seen}; expected {_EXPECTED} (or map with data.columns)")


def to_conversation(
    record: Mapping[str, Any], *, id: int, source: str, format: str = "auto", columns: Mapping[str, str]
) -> Conversation | Refusal:
    """Read one record. `format` is `auto` or a format's name."""
    record = rename(record, columns) if columns else record
    name = detect_format(record) if format == "auto" else format
    if isinstance(name, Refusal):
        return name
    try:
        messages = _READERS[name](record)
        tools = _tools(record.get("tools"))
    except _RefusedError as refused:
        return refused.refusal
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        roles = ", ".join(message.role for message in messages) or "none"
        return Refusal("no_assistant_turn", f"roles seen: {roles}; expected at least one assistant turn")
    if not any(message.content.strip() or message.tool_calls for message in answers):
        return Refusal("empty_answer", "every assistant turn is empty")
    return Conversation(id=id, messages=tuple(messages), source=source, tools=tools)


def _read_alpaca(record: Mapping[str, Any]) -> list[Message]:
    _require(record, ("instruction", "output"), "alpaca")
    messages = []
    if system := _text(record.get("system"), "system", optional=True):
        messages.append(Message("system", system))
    for pair in record.get("history") or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _RefusedError("wrong_type", f"history must be [question, answer] pairs, got {_short(pair)}")
        messages.append(Message("user", _text(pair[0], "history")))
        messages.append(Message("assistant", _text(pair[1], "history")))
    instruction = _text(record["instruction"], "instruction")
    extra = _text(record.get("input"), "input", optional=True)
    messages.append(Message("user", f"{instruction}\n{extra}" if extra else instruction))
    messages.append(Message("assistant", _text(record["output"], "output")))
    return messages


def _read_sharegpt(record: Mapping[str, Any]) -> list[Message]:
    key = "conversations" if "conversations" in record else "messages"
    _require(record, (key,), "sharegpt")
    messages = []
    if system := _text(record.get("system"), "system", optional=True):
        messages.append(Message("system", system))
    for turn in _turns(record[key], key):
        if "from" not in turn:
            messages.append(_openai_message(turn))
            continue
        speaker, value = turn["from"], turn.get("value")
        if speaker == "function_call":
            calls = _tool_calls(value if isinstance(value, list) else [value])
            messages.append(Message("assistant", "", _train_flag(turn), calls))
        else:
            messages.append(Message(_role(speaker), _text(value, "value"), _train_flag(turn)))
    return messages


def _read_messages(record: Mapping[str, Any]) -> list[Message]:
    _require(record, ("messages",), "messages")
    return [_openai_message(turn) for turn in _turns(record["messages"], "messages")]


_READERS: dict[str, Callable[[Mapping[str, Any]], list[Message]]] = {
    "alpaca": _read_alpaca,
    "sharegpt": _read_sharegpt,
    "messages": _read_messages,
}


def _openai_message(turn: Mapping[str, Any]) -> Message:
    if "role" not in turn:
        raise _RefusedError("wrong_type", f"a turn needs `role`, got the keys {', '.join(sorted(turn)) or 'none'}")
    role = _role(turn["role"])
    calls = _tool_calls(turn.get("tool_calls") or ())
    content = _text(turn.get("content"), "content", optional=bool(calls))
    return Message(role, content, _train_flag(turn), calls, str(turn.get("tool_call_id") or ""))


def _turns(value: Any, column: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise _RefusedError("wrong_type", f"`{column}` must be a list of objects, got {_short(value)}")
    return value


def _require(record: Mapping[str, Any], names: tuple[str, ...], format: str) -> None:
    missing = [name for name in names if name not in record]
    if missing:
        seen = ", ".join(sorted(map(str, record))) or "none"
        raise _RefusedError("missing_column", f"{format} needs {', '.join(missing)}; columns seen: {seen}")


def _role(name: Any) -> str:
    if not isinstance(name, str) or name not in _ROLE_OF:
        raise _RefusedError("unknown_role", f"role {_short(name)}; expected one of {', '.join(_ROLE_OF)}")
    return _ROLE_OF[name]


def _train_flag(turn: Mapping[str, Any]) -> bool | None:
    """`train: bool`, or OpenAI's `weight: 0 | 1`."""
    flag = turn.get("train")
    if flag is None and turn.get("weight") is not None:
        flag = turn["weight"]
        if flag not in (0, 1):
            raise _RefusedError("wrong_type", f"`weight` must be 0 or 1, got {_short(flag)}")
        return bool(flag)
    if flag is not None and not isinstance(flag, bool):
        raise _RefusedError("wrong_type", f"`train` must be true or false, got {_short(flag)}")
    return flag


def _text(value: Any, column: str, *, optional: bool = False) -> str:
    """A string, or a list of text parts joined."""
    if isinstance(value, str):
        return value
    if value is None and optional:
        return ""
    if isinstance(value, list):
        return "".join(_part(part, column) for part in value)
    raise _RefusedError("wrong_type", f"`{column}` must be text, got {_short(value)}")


def _part(part: Any, column: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else part
    raise _RefusedError("unsupported_content", f"`{column}` has a part of type {_short(kind)}; only text is read")


def _tool_calls(calls: Any) -> tuple[dict[str, Any], ...]:
    """To `{type: function, function: {name, arguments}}`; arguments decoded when they are JSON text."""
    if not isinstance(calls, list | tuple):
        raise _RefusedError("wrong_type", f"`tool_calls` must be a list, got {_short(calls)}")
    found = []
    for call in calls:
        call = _decoded(call)
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise _RefusedError("wrong_type", f"a tool call needs a name, got {_short(call)}")
        arguments = _decoded(inner.get("arguments", {}))
        nested = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
        found.append({**nested, "id": str(call["id"])} if call.get("id") else nested)
    return tuple(found)


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    """To a tuple of `{type: function, function: {...}}`."""
    value = _decoded(value)
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise _RefusedError("wrong_type", f"`tools` must be a list of objects, got {_short(value)}")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in value)


def _decoded(value: Any) -> Any:
    """JSON text decoded; other text and other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
