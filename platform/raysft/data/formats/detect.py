"""Which format a record has, judged by the columns that hold something. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from raysft.data.formats.fields import RESPONSES, TURNS
from raysft.data.formats.values import Record, columns_of, decoded
from raysft.data.records import Refusal

EXPECTED = (
    "alpaca {instruction, input, output}, unified {instruction, input, output, metadata{}}, "
    "sharegpt {conversations: [{from, value}]}, messages {messages: [{role, content}]}, "
    "completion {prompt, completion}, preference {prompt, chosen, rejected}, "
    "ranking {prompt, responses[], scores[]}, critique {question, noisy_answer, critique}, "
    "labelled {text, label}, text {text}"
)
_QUESTIONS = ("prompt", "question", "query", "instruction")
_EMPTY: tuple[Any, ...] = ("", [], {})


def detect_format(record: Record) -> str | Refusal:
    """The format's name: the first that fits. A null column is no column, nor an empty one if another format fits.

    But a text beside a null label is no plain text: it would be trained, question and all.
    """
    found = _first({name: value for name, value in record.items() if value is not None and value not in _EMPTY})
    found = found or _first({name: value for name, value in record.items() if value is not None})
    if found == "text" and "label" in record:
        return "labelled"
    return (
        found
        or _first(record)
        or Refusal(
            "unknown_format", f"columns seen: {columns_of(record)}; expected {EXPECTED} (or map with data.columns)"
        )
    )


def _first(record: Record) -> str:
    """The order is from the columns that say most to those that say least."""
    if "chosen" in record and "rejected" in record:
        return "preference"
    if "critique" in record and ("question" in record or "instruction" in record):
        return "critique"
    turns = _format_of_turns(record)
    if _are_scored(record) and (turns or _has(record, _QUESTIONS)):
        return "ranking"
    if "prompt" in record and "completion" in record:
        return "completion"
    if turns:
        return turns
    if "instruction" in record and "output" in record:
        return "unified" if isinstance(decoded(record.get("metadata")), dict) else "alpaca"
    if "label" in record and ("text" in record or "sentence1" in record):
        return "labelled"
    if _has(record, ("prompt", "query")) and _has(record, ("completion", "response")):
        return "completion"
    if _has(record, _QUESTIONS) and any(isinstance(record.get(name), list | dict) for name in RESPONSES):
        return "completion"
    return "text" if isinstance(record.get("text", record.get("content")), str | Refusal) else ""


def _format_of_turns(record: Record) -> str:
    """messages or sharegpt, by the keys of the turns; none for a column that holds no turns."""
    for name in TURNS:
        turns = record.get(name)
        if type(turns) is str and turns.lstrip()[:1] in ("[", "{"):
            turns = decoded(turns)
        if isinstance(turns, dict):
            return "messages" if "role" in turns else "sharegpt"
        if isinstance(turns, list):
            keyed = any("role" in turn if isinstance(turn, dict) else '"role"' in str(turn) for turn in turns)
            return "messages" if name == "messages" and (keyed or not turns) else "sharegpt"
    return ""


def _are_scored(record: Record) -> bool:
    """Are there several responses, each with a score or a rank?"""
    if _has(record, ("scores", "ranks")):
        return _has(record, RESPONSES)
    for name in RESPONSES:
        responses = record.get(name)
        found = responses if isinstance(responses, list) else [responses]
        if any(isinstance(response, dict) and ("score" in response or "rank" in response) for response in found):
            return True
    return False


def _has(record: Record, names: Collection[str]) -> bool:
    return any(name in record for name in names)
