"""The line of a recipe that would map a record's columns, where their names and values say what they are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raysft.data.formats.fields import LABELS
from raysft.data.formats.names import describes
from raysft.data.formats.values import Record, RefusedError, decoded, printable_key

_ASKED = (
    *("instruction", "question", "query", "prompt", "problem", "inputs", "input", "article", "document", "source"),
    *("context_messages", "text_input", "dialogue", "src", "ask", "title", "user", "human", "context", "text"),
)
_ANSWERED = (
    *("output", "response", "completion", "answer", "solution", "targets", "target", "highlights", "summary"),
    *("generated_solution", "reply", "translation", "tgt", "assistant", "final", "gpt", "generation", "attempt"),
)
_CHOSEN, _REJECTED = (
    ("chosen", "preferred", "response_j", "better"),
    ("rejected", "dispreferred", "response_k", "worse"),
)
_SPEAKERS, _TEXTS = ("role", "from", "speaker"), ("content", "value", "text", "says")
_READ = ("role", "from", "content", "value")
"""Keys of turns that need no mapping."""


def suggested_mapping(record: Record) -> str:
    """`; perhaps data.columns: {instruction: problem, output: solution}`; empty where nothing is likely."""
    mapping = _turns(record) or _pair(record) or _question_and_answer(record) or _labelled_text(record)
    listed = ", ".join(f"{name}: {printable_key(column)}" for name, column in mapping.items() if name != column)
    return f"; perhaps data.columns: {{{listed}}}" if listed else ""


def _turns(record: Record) -> dict[str, str]:
    """The one column of turns under a name of its own, if an answer ends them: they are more than a prompt."""
    found = [(str(column), keys) for column, value in record.items() if (keys := _keys_of_turns(value))]
    if len(found) != 1:
        return {}
    [(column, keys)] = found
    own = {name: key for name, key in zip(("role", "content"), keys, strict=True) if key not in _READ}
    return {"messages": column, **own} if _are_answered(record[column], keys[0]) else {}


def _are_answered(value: Any, roles: str) -> bool:
    return str(_objects(value)[-1].get(roles)).lower() not in ("user", "human", "system")


def _keys_of_turns(value: Any) -> tuple[str, str] | None:
    turns = _objects(value)
    roles = next((name for name in _SPEAKERS if turns and all(name in turn for turn in turns)), "")
    texts = next((name for name in _TEXTS if turns and all(name in turn for turn in turns)), "")
    return (roles, texts) if roles and texts else None


def _objects(value: Any) -> list[dict[str, Any]]:
    try:
        found = decoded(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    except RefusedError:
        return []
    return found if isinstance(found, list) and found and all(isinstance(turn, dict) for turn in found) else []


def _pair(record: Record) -> dict[str, str]:
    chosen, rejected, asked = _text(record, _CHOSEN), _text(record, _REJECTED), _asked(record)
    if not (chosen and rejected and asked):
        return {}
    return {"prompt": asked, "chosen": chosen, "rejected": rejected}


def _question_and_answer(record: Record) -> dict[str, str]:
    asked, answer = _asked(record), _text(record, _ANSWERED)
    if not (asked and answer):
        return {}
    if isinstance(record[asked], str):
        return {"instruction": asked, "output": answer}
    return {"prompt": asked, "completion": answer}


def _labelled_text(record: Record) -> dict[str, str]:
    """The only text beside a label."""
    texts = [str(name) for name, value in record.items() if isinstance(value, str) and not describes(str(name))]
    texts = [name for name in texts if name not in (*LABELS, "label_text")]
    return {"text": texts[0]} if len(texts) == 1 and not record.keys().isdisjoint(LABELS) else {}


def _asked(record: Record) -> str:
    """The column that is a question: a text, or turns that no answer ends."""
    names = {str(name).lower(): name for name in record}
    for name in _ASKED:
        value = record.get(names.get(name, ""))
        if (isinstance(value, str) and value.strip()) or _keys_of_turns(value):
            return str(names[name])
    return ""


def _text(record: Record, known: Sequence[str]) -> str:
    names = {str(name).lower(): name for name in record}
    found = (names[name] for name in known if name in names)
    return next((str(name) for name in found if isinstance(record[name], str) and record[name].strip()), "")
