"""Answers in the columns of a record: one text, several texts, turns, with the reasoning beside them. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from raysft.data.formats.fields import ANSWER_TEXTS, RESPONSES, SCORES
from raysft.data.formats.names import REASONING
from raysft.data.formats.spoken import SPOKEN, spoken_turns
from raysft.data.formats.turns import read_messages
from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import RefusedError, decoded, is_empty, read_list, read_text, short_value
from raysft.data.records import Candidate, Message, Note, plain_message

_REASONING = frozenset(REASONING)
_SWITCHES = frozenset(("on", "off", "yes", "no", "true", "false", "none"))
_SCORED = frozenset(key for keys in SCORES.values() for key in keys)


class RecordContent(NamedTuple):
    """What a format's reader finds in a record."""

    messages: list[Message]
    candidates: tuple[Candidate, ...] = ()
    label: str | None = None
    wanted: bool | None = None
    """Is the answer a good one? None: the record does not say."""
    answers: tuple[Message, ...] = ()
    """Where the record has several answers to `messages`, which then hold none."""


def answered(prompt: list[Message], account: KeyLedger, column: str) -> RecordContent:
    """The prompt with its answer, or with several: a list of texts."""
    value = account.get(column)
    if type(value) is str and column not in RESPONSES:
        reasoning = _reasoning(account)
        answer = Message("assistant", value, reasoning=reasoning) if reasoning else plain_message("assistant", value)
        return RecordContent([*prompt, answer])
    if not isinstance(value, list) and column in RESPONSES:
        value = read_list(value, column)
    reasoning = _reasoning(account)
    if isinstance(value, list) and value and not any(isinstance(part, dict) and "type" in part for part in value):
        texts = [read_answer(item, column, account)[-1].content for item in value if not is_empty(item)]
        answers = tuple(Message("assistant", text, reasoning=reasoning) for text in dict.fromkeys(texts))
        if len(answers) > 1:
            return RecordContent(prompt, answers=answers)
        return RecordContent([*prompt, *answers])
    return RecordContent([*prompt, Message("assistant", read_text(value, column), reasoning=reasoning)])


def _reasoning(account: KeyLedger) -> str:
    """What was thought before the answer, from a column beside it."""
    if _REASONING.isdisjoint(account.record):
        return ""
    column = next((name for name in REASONING if not is_empty(account.record.get(name))), None)
    if column is None:
        return ""
    reasoning = read_text(account.get(column), column)
    if reasoning.strip().lower() in _SWITCHES:
        raise RefusedError(
            f"unread:{column}",
            f"`{column}` is a switch, no reasoning: {short_value(reasoning)}; see data.ignore_columns",
        )
    return reasoning


def read_answer(value: Any, column: str, account: KeyLedger) -> list[Message]:
    """An answer as text, as one message (ShareGPT's or OpenAI's), an object with one of ANSWER_TEXTS, or messages.

    A text may hold a whole talk (hh-rlhf): its turns, which begin with a user's.
    """
    if isinstance(value, str) and (talk := spoken_turns(value)):
        account.notes.append(Note("guess", SPOKEN.format(column=column)))
        return talk
    if isinstance(value, str) and value[:1] in ("[", "{"):
        turns = decoded(value)
        is_turns = isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns)
        if is_turns and all("role" in turn or "from" in turn for turn in turns):
            value = turns
    if isinstance(value, list):
        return read_messages(value, column, account)
    if isinstance(value, dict):
        if "from" in value or "role" in value:
            own = value if _SCORED.isdisjoint(value) else {k: v for k, v in value.items() if k not in _SCORED}
            return read_messages([own], column, account)
        name = next((key for key in ANSWER_TEXTS if value.get(key) is not None), "")
        if not name:
            expected = ", ".join(f"`{key}`" for key in ANSWER_TEXTS)
            raise RefusedError(
                "wrong_type", f"`{column}` must be text, or {expected} in an object, got {short_value(value)}"
            )
        for key in value.keys() - {name} - _SCORED:
            account.unread(f"{column}[].", key, value[key])
        value = value.get(name)
    return [Message("assistant", read_text(value, column))]
