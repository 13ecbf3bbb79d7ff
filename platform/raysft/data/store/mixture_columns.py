"""What data.mixture reads from a conversation's metadata: a weight, a group, a number to order by. Pure.

Numbers may be text: in a CSV file every value is.
"""

from __future__ import annotations

from raysft.data.formats.values import is_empty, number_of
from raysft.data.records import Conversation
from raysft.errors import DataError


def weight_of(conversation: Conversation, column: str | None) -> float:
    """Weight of the conversation's target tokens: its own times the column's. Raises DataError for no number."""
    if column is None:
        return conversation.weight
    value = conversation.metadata.get(column)
    if is_empty(value):
        return conversation.weight
    weight = number_of(value)
    if weight is None or weight < 0:
        raise DataError(
            f"data.mixture.weight_column: {column} holds no weight",
            got=f"{value!r}"[:80],
            expected="a number from 0 on, in every record that has the column",
            fix="correct that column, or leave weight_column out",
        )
    return conversation.weight * weight


def group_of(conversation: Conversation, column: str | None) -> str | None:
    """The value by which mixture.balance_by groups; None: it has none."""
    value = conversation.metadata.get(column) if column else None
    return None if value is None else valid_text(str(value))


def value_of(conversation: Conversation, column: str | None) -> float | None:
    """The number by which mixture.curriculum orders; None: it has none. Raises DataError for no number."""
    value = conversation.metadata.get(column) if column and column != "length" else None
    if is_empty(value):
        return None
    number = number_of(value)
    if number is None:
        raise DataError(
            f"data.mixture.curriculum: {column} holds no number",
            got=f"{value!r}"[:80],
            expected="a number, or nothing, in every record",
            fix="correct that column, or name another one (`length` is the length in tokens)",
        )
    return number


def valid_text(text: str) -> str:
    """Text that Arrow can hold: lone surrogates replaced."""
    return text.encode(errors="replace").decode()
