"""What a record asks: its system turn, its earlier turns, its question. Pure."""

from __future__ import annotations

from collections.abc import Set

from raysft.data.formats.fields import PROMPTS, TURNS
from raysft.data.formats.spoken import SPOKEN, spoken_turns
from raysft.data.formats.suggestions import suggested_mapping
from raysft.data.formats.turns import read_messages
from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import (
    RefusedError,
    column_names,
    decoded,
    is_empty,
    read_list,
    read_text,
    short_value,
)
from raysft.data.records import Message, Note, plain_message


def require(account: KeyLedger, names: Set[str], format: str) -> None:
    """Refuse a record without one of these columns; `a|b` needs one of the two."""
    record = account.record
    if record.keys() >= names:
        return
    missing = sorted(name for name in names if name not in record)
    missing = [name for name in missing if not any(part in record for part in name.split("|"))]
    if missing:
        raise RefusedError(
            "missing_column",
            f"{format} needs {', '.join(missing)}; columns seen: {column_names(record)}{suggested_mapping(record)}",
        )


def with_system(account: KeyLedger, messages: list[Message]) -> list[Message]:
    """The messages behind the `system` column's turn, where it says something that they do not begin with."""
    if "system" not in account.record:
        return messages
    system = read_text(account.get("system"), "system", optional=True)
    if not system:
        return messages
    if messages and messages[0].role == "system":
        if messages[0].content.strip() != system.strip():
            raise RefusedError(
                "two_system_turns",
                f"`system` is {short_value(system)}, and the turns begin with {short_value(messages[0].content)}",
            )
        return messages
    return [Message("system", system), *messages]


def question_text(account: KeyLedger, column: str) -> str:
    """The column's text, and that of `input` below it."""
    question = read_text(account.get(column), column)
    extra = read_text(account.get("input"), "input", optional=True)
    return f"{question}\n{extra}" if extra else question


def ask(account: KeyLedger, column: str) -> list[Message]:
    """The question of a column of text, behind `system` and the earlier turns of `history`."""
    return with_system(account, [*_earlier(account), plain_message("user", question_text(account, column))])


def read_prompt(account: KeyLedger, format: str) -> list[Message]:
    """What all answers answer: text or turns. Raises RefusedError."""
    column = account.first(PROMPTS)
    if column is None:
        require(account, {"|".join(PROMPTS)}, format)
        raise RefusedError("missing_column", f"{format} needs {'|'.join(PROMPTS)}, which holds nothing")
    value = account.record[column]
    turns = decoded(value) if column in ("prompt", *TURNS) else value
    if isinstance(turns, list | dict):
        account.used.add(column)
        return with_system(account, read_messages(turns, column, account))
    if isinstance(value, str) and (talk := spoken_turns(value)) and not talk[-1].content:
        account.used.add(column)
        account.notes.append(Note("guess", SPOKEN.format(column=column)))
        return with_system(account, talk[:-1])
    return ask(account, column)


def _earlier(account: KeyLedger) -> list[Message]:
    """The pairs of `history`, as Alpaca's, LLaMA-Factory's and ms-swift's files have them."""
    history = account.get("history") if "history" in account.record else None
    messages: list[Message] = []
    for pair in [] if is_empty(history) else read_list(history, "history"):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RefusedError("wrong_type", f"`history` must be [question, answer] pairs, got {short_value(pair)}")
        messages.append(Message("user", read_text(pair[0], "history")))
        messages.append(Message("assistant", read_text(pair[1], "history")))
    return messages
