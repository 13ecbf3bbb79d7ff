"""Record formats: a record of any of them -> Conversation. Pure.

Owns the column mapping, which format a record has, and whether what its reader (readers.py) found can be used.
Everything ends in a Conversation; nothing after this package knows which format a record had. A record that cannot be
one becomes a `Refusal`: a value, because refusals are counted, not raised. Reading files is sources.py, turning a
conversation into tokens is chat.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence, Set
from typing import Any

from raysft.data.formats.readers import FIELDS, READERS
from raysft.data.formats.values import Record, RefusedError, columns_of, read_tools
from raysft.data.records import Conversation, Message, Refusal
from raysft.errors import DataError

_EXPECTED = (
    "alpaca {instruction, input, output}, unified {instruction, input, output, metadata{}}, "
    "sharegpt {conversations: [{from, value}]}, messages {messages: [{role, content}]}, "
    "preference {prompt, chosen, rejected}, ranking {prompt, responses[], scores[]}, "
    "critique {question, noisy_answer, critique}, labelled {text, label}, text {text}"
)
_READ = {name: frozenset(fields) for name, fields in FIELDS.items()}
_RESPONSES = frozenset(("responses", "candidates", "answers"))
_QUESTIONS = frozenset(("prompt", "question", "instruction"))
_SCALARS = (str, int, float)  # a bool is an int
_MEDIA = {name: kind for kind in ("image", "video", "audio") for name in (kind, f"{kind}s")}


def check_columns(columns: Mapping[str, str], format: str = "auto") -> None:
    """Raise DataError when `data.columns` maps a name that the format does not have."""
    chosen = FIELDS.values() if format == "auto" else (FIELDS[format],)
    known = sorted({name for fields in chosen for name in fields})
    for name in columns:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise DataError(
                f"data.columns maps {name!r}, which no record format has"
                if format == "auto"
                else f"data.columns maps {name!r}, which the format {format} does not have",
                got=f"{name}: {columns[name]}",
                expected=f"format's name -> file's name; names: {', '.join(known)}",
                fix=f"did you mean {near[0]!r}?" if near else "map one of these names to your file's column",
            )


def rename(record: Record, columns: Mapping[str, str]) -> dict[str, Any]:
    """The record under the format's names; a mapped file column gives up its own name."""
    renamed = dict(record)
    for column in columns.values():
        renamed.pop(column, None)
    for name, column in columns.items():
        if column in record:
            renamed[name] = record[column]
    return renamed


def detect_format(record: Record) -> str | Refusal:
    """The format's name, judged by this record's columns alone: the first in the order of this function."""
    if "chosen" in record and "rejected" in record:
        return "preference"
    if "critique" in record and ("question" in record or "instruction" in record):
        return "critique"
    turns = record.get("messages")
    if isinstance(turns, list):
        keyed_by_role = any(isinstance(turn, dict) and "role" in turn for turn in turns)
        found = "messages" if keyed_by_role or not turns else "sharegpt"
    else:
        found = "sharegpt" if isinstance(record.get("conversations"), list) else ""
    if not _RESPONSES.isdisjoint(record) and any(isinstance(record.get(name), list) for name in _RESPONSES):
        asked = found or not _QUESTIONS.isdisjoint(record)
        found = "ranking" if asked else found
    if found:
        return found
    if "instruction" in record and "output" in record:
        return "unified" if isinstance(record.get("metadata"), dict) else "alpaca"
    if "label" in record and ("text" in record or "sentence1" in record):
        return "labelled"
    if isinstance(record.get("text", record.get("content")), str):
        return "text"
    return Refusal(
        "unknown_format", f"columns seen: {columns_of(record)}; expected {_EXPECTED} (or map with data.columns)"
    )


def to_conversation(
    record: Record, *, id: int, source: str, format: str = "auto", columns: Mapping[str, str]
) -> Conversation | Refusal:
    """Read one record. `format` is `auto` or a format's name."""
    record = rename(record, columns) if columns else record
    name = detect_format(record) if format == "auto" else format
    if isinstance(name, Refusal):
        return name
    try:
        found = READERS[name](record)
        tools = read_tools(record["tools"]) if "tools" in record else ()
    except RefusedError as refused:
        return refused.refusal
    texts = [message.content for message in found.messages]
    for candidate in found.candidates:
        texts += [message.content for message in candidate.messages]
    refusal = _bad_text(record, texts) or _bad_turns(found.messages)
    if refusal is not None:
        return refusal
    return Conversation(
        id=id,
        messages=tuple(found.messages),
        source=source,
        tools=tools,
        candidates=found.candidates,
        label=found.label,
        metadata=_metadata(record, _READ[name]),
    )


def _bad_text(record: Record, texts: Sequence[str]) -> Refusal | None:
    for text in texts:
        if "\0" in text:
            return Refusal("nul_character", f"a NUL (U+0000) after {text[: text.index(chr(0))][-40:]!r}")
        if "<image>" in text:
            return Refusal("media_in_text_run", "the text holds <image>; only text is trained")
    if not _MEDIA.keys().isdisjoint(record):
        for name in _MEDIA.keys() & record.keys():
            if record[name]:
                return Refusal("media_in_text_run", f"the column `{name}` is not empty; only text is trained")
            if any(f"<{_MEDIA[name]}>" in text for text in texts):
                return Refusal("media_in_text_run", f"the text holds <{_MEDIA[name]}>; only text is trained")
    return None


def _bad_turns(messages: Sequence[Message]) -> Refusal | None:
    """Turns go user, assistant, user, assistant; tool turns stand between a call and the next assistant turn."""
    if len(messages) == 1 and messages[0].role == "text":
        return None if messages[0].content.strip() else Refusal("empty_answer", "the text is empty")
    if "assistant" not in [message.role for message in messages]:
        roles = ", ".join(message.role for message in messages) or "none"
        return Refusal("no_assistant_turn", f"roles seen: {roles}; expected at least one assistant turn")
    last: Message | None = None
    for number, message in enumerate(messages, 1):
        role = message.role
        if role == "system":
            continue
        before = last.role if last else "nothing"
        if role == "assistant":
            out_of_order = last is None or before == "assistant"
            if not message.content.strip() and not message.tool_calls and message.train is not False:
                return Refusal("empty_answer", f"turn {number}, of the assistant, is empty")
        elif role == "tool":
            out_of_order = before != "tool" and not _calls(last)
        else:
            out_of_order = before == "user"
        if out_of_order:
            return Refusal("role_order", f"turn {number}, of role {role}, follows {before}")
        last = message
    end = messages[-1].role
    if end != "assistant":
        reason = "ends_in_user_turn" if end == "user" else "role_order"
        return Refusal(reason, f"the last turn is of role {end}: nothing answers it")
    return None


def _calls(message: Message | None) -> bool:
    """Calls a tool; also as text, as Hermes and Qwen write it."""
    return message is not None and bool(message.tool_calls or "<tool_call>" in message.content)


def _metadata(record: Record, fields: Set[str]) -> dict[str, Any]:
    """The scalar columns that the format does not read, and those in `metadata`."""
    found = {k: v for k, v in record.items() if k not in fields and isinstance(v, _SCALARS)}
    if isinstance(inner := record.get("metadata"), dict):
        found.update((k, v) for k, v in inner.items() if isinstance(v, _SCALARS))
    return found
