"""Which format a record has, judged by the columns that hold something. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from raysft.data.formats.fields import (
    ANCHORS,
    CHOSEN,
    LABELS,
    OTHER_ENDS,
    PAIRED_TEXTS,
    POSITIVES,
    REJECTED,
    RESPONSES,
    SCORES,
    TURNS,
)
from raysft.data.formats.suggestions import suggested_mapping
from raysft.data.formats.values import Record, RefusedError, column_names, decoded
from raysft.data.records import Refusal

EXPECTED = (
    "alpaca {instruction, input, output}, unified {instruction, input, output, metadata{}}, "
    "sharegpt {conversations: [{from, value}]}, messages {messages: [{role, content}]}, "
    "completion {prompt, completion}, preference {prompt, chosen, rejected}, "
    "ranking {prompt, responses[], scores[]}, critique {question, noisy_answer, critique}, "
    "labelled {text, label}, matched {anchor, positive, negative}, text {text}"
)
_OTHER_ENDS = frozenset(OTHER_ENDS)
_QUESTIONS = frozenset(("prompt", "question", "query", "instruction"))
_RESPONSES = frozenset(RESPONSES)
_TURNS = frozenset(TURNS)
_SCORES = frozenset(SCORES)
_OWN_SCORES = frozenset(key for keys in SCORES.values() for key in keys)
_LABELS, _LABELLED = frozenset(LABELS), frozenset(PAIRED_TEXTS)
_DECIDED_BY_VALUE = frozenset((*TURNS, *RESPONSES, "metadata", "text", "content"))
_EMPTY: tuple[Any, ...] = ("", [], {})


def detect_format(record: Record, *, matched: bool = False, labelled: bool = False) -> str | Refusal:
    """The format's name: the first that fits. A null column is no column, nor an empty one if another format fits.

    But a text beside a null label is no plain text: it would be trained, question and all. matched: texts that match
    are looked for first, else last of all, so that a record with an answer is one to whoever trains answers.
    labelled: a text beside a label is one for it, though null; by itself it is one whose label is not known.
    """
    try:
        if labelled and not _LABELS.isdisjoint(record) and not _LABELLED.isdisjoint(record):
            return "labelled"
        found = "matched" if matched and _are_matched(record, POSITIVES) else _detect(record)
        return "labelled" if found == "text" and labelled and "text" in record else found
    except RefusedError as refused:
        return refused.refusal


def _detect(record: Record) -> str | Refusal:
    filled = tuple([name for name, value in record.items() if value or (value is not None and value not in _EMPTY)])
    found = _by_names(filled) or _first({name: record[name] for name in filled})
    found = found or _first({name: value for name, value in record.items() if value is not None})
    if found == "text" and not _LABELS.isdisjoint(record):
        return "labelled"
    if found or (found := _first(record)):
        return found
    seen = f"columns seen: {column_names(record)}{suggested_mapping(record)}"
    return Refusal("unknown_format", f"{seen}; expected {EXPECTED} (or map with data.columns)")


@lru_cache(maxsize=4096)
def _by_names(names: tuple[str, ...]) -> str:
    """The format of a record with these columns, where that does not depend on what they hold."""
    own = dict.fromkeys(names, "")
    return _first(own) if _DECIDED_BY_VALUE.isdisjoint(own) else ""


def _first(record: Record) -> str:
    """The order is from the columns that say most to those that say least."""
    if CHOSEN in record and REJECTED in record:
        return "preference"
    is_asked = not _QUESTIONS.isdisjoint(record)
    if "critique" in record and ("question" in record or "instruction" in record):
        return "critique"
    turns = "" if _TURNS.isdisjoint(record) else _format_of_turns(record)
    if (turns or (is_asked and "response" in record)) and not _OTHER_ENDS.isdisjoint(record):
        return "preference"
    has_responses = not _RESPONSES.isdisjoint(record)
    if has_responses and (is_asked or turns) and _are_scored(record):
        return "ranking"
    if "prompt" in record and "completion" in record:
        return "completion"
    if turns:
        return turns
    if "instruction" in record and "output" in record:
        return "unified" if isinstance(decoded(record.get("metadata")), dict) else "alpaca"
    if not _LABELS.isdisjoint(record) and not _LABELLED.isdisjoint(record):
        return "labelled"
    if is_asked and ("completion" in record or "response" in record):
        return "completion"
    if has_responses and is_asked and any(isinstance(record.get(name), list | dict) for name in RESPONSES):
        return "completion"
    if isinstance(record.get("text", record.get("content")), str | Refusal):
        return "text"
    return "matched" if _are_matched(record, POSITIVES[:3]) else ""


def _are_matched(record: Record, positives: Sequence[str]) -> bool:
    """Is there a text, and another that matches it? Two sentences with a label are a question about them."""
    anchor, positive = (
        next((name for name in names if record.get(name) is not None), "") for names in (ANCHORS, positives)
    )
    is_asked = positive == "sentence2" and "label" in record
    return bool(anchor and positive) and (anchor == "sentence1" or positive != "sentence2") and not is_asked


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
    """Have the responses scores or ranks?"""
    if not _SCORES.isdisjoint(record):
        return True
    for name in RESPONSES:
        responses = record.get(name)
        found = responses if isinstance(responses, list) else [responses]
        if any(isinstance(response, dict) and not _OWN_SCORES.isdisjoint(response) for response in found):
            return True
    return False
