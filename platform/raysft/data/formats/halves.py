"""Columns that nothing reads though they belong to what is read: the other half of a question, its options, the
answer to a text. Pure.

A record of such a column would be trained on half of what it says: `{instruction, question, output}` without the
question, `{text, summary}` as a plain text. Formats of turns hold all of a talk: what stands beside is only told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raysft.data.formats.unread import KeyLedger, leaves
from raysft.data.formats.values import RefusedError, is_empty, short_value

_QUESTIONS = frozenset(("question", "query", "prompt", "instruction", "problem"))
_OPTIONS = frozenset(("options", "choices", "endings"))
_ANSWERS = frozenset(
    (
        *("answer", "answers", "response", "responses", "output", "outputs", "completion", "completions", "target"),
        *("targets", "summary", "highlights", "solution", "reply", "translation", "labels", "label"),
    )
)
_TURN = frozenset(("role", "from", "speaker", "parent_id"))
_WHOLE = frozenset(("messages", "sharegpt"))


def check_halves(account: KeyLedger, format: str, rest: Sequence[str], texts: Sequence[str]) -> None:
    """Raise RefusedError for the first of the columns `rest` that is a half of what the format reads.

    texts: what the conversation says. What stands in them, however short, is no half; nor what holds a column that
    was read (a prompt that was put together from them).
    """
    if format in _WHOLE:
        return
    is_guessed = format == "text" and account.reading.format == "auto"
    for name in rest:
        value = account.record[name]
        if is_empty(value):
            continue
        key = name.lower()
        if key in _QUESTIONS and format != "text":
            kind, is_half = "a question", not _stands_in(value, texts) and not _is_made_of(value, account)
            fix = "map what is the question, or put both into one column"
        elif key in _OPTIONS and format != "text":
            kind, is_half = "the options of a question", not _stands_in(value, texts)
            fix = "put them into the question"
        elif is_guessed and (key in _QUESTIONS or key in _ANSWERS) and isinstance(value, str | list | dict):
            kind, is_half = "a part of a question or an answer", not _stands_in(value, texts)
            fix = "map the columns (data.columns: {instruction: text, output: ...}), or data.format: text"
        elif is_guessed and key in _TURN:
            kind, is_half = "of a turn", True
            fix = "gather the turns of a talk in `messages`, or data.format: text"
        else:
            continue
        if is_half:
            raise RefusedError(
                f"unread:{name}",
                f"`{name}` ({kind}) would be lost beside what the format {format} reads: {short_value(value)}; "
                f"{fix}, or data.ignore_columns: [{name}]",
            )


def _stands_in(value: Any, texts: Sequence[str]) -> bool:
    """Does every text and number of the value stand in what the conversation says?"""
    return all(any(str(leaf).strip() in text for text in texts) for leaf in leaves([value]))


def _is_made_of(value: Any, account: KeyLedger) -> bool:
    """Does it hold the text of a column that was read?"""
    read = [account.record.get(name) for name in account.used]
    return isinstance(value, str) and any(
        isinstance(own, str) and own.strip() and own.strip() in value for own in read
    )
