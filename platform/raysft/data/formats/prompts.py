"""A record as a question to a model: its turns up to the last answer, which is left out. Pure.

The record may be of any format, with an answer or without one.
"""

from __future__ import annotations

from raysft.data.formats.asked import read_prompt
from raysft.data.formats.fields import PROMPTS
from raysft.data.formats.names import meaning_of
from raysft.data.formats.tools import read_tools
from raysft.data.formats.unread import KeyLedger, Reading
from raysft.data.formats.values import Record, RefusedError, column_names, is_empty, read_text
from raysft.data.records import Conversation, Message, Refusal

ASKS = ("system prompt", "tools", "documents")
"""Kinds of columns that are a part of the question: one that nothing reads refuses the record."""

ANSWER = "x"
"""Stands for the answer, so that templates write the prompt of one (rendering.render_prompt)."""


def read_question(record: Record, number: int, *, system: str = "") -> Conversation | Refusal:
    """The question of a record, with a stand-in for the answer. A plain `text` is a user's turn.

    system: said before a question that has no system turn.
    """
    account = KeyLedger(record, Reading())
    try:
        messages = _messages(account)
        column = account.first(("tools", "functions")) or "tools"
        tools = read_tools(account.get(column), column)
        for name, value in record.items():
            if name not in account.used and not is_empty(value) and _asks(name):
                raise RefusedError("unread_column", f"`{name}` would be a part of the question, and nothing reads it")
    except RefusedError as refused:
        return refused.refusal
    if system and messages[0].role != "system":
        messages.insert(0, Message("system", system))
    return Conversation(number, (*messages, Message("assistant", ANSWER)), tools=tools)


def _messages(account: KeyLedger) -> list[Message]:
    if account.first(PROMPTS) is None:
        if account.first(("text", "content")) is None:
            seen = f"columns seen: {column_names(account.record)}"
            raise RefusedError("no_prompt", f"{seen}; expected {', '.join(PROMPTS)} or text")
        column = account.first(("text", "content")) or ""
        messages = [Message("user", read_text(account.get(column), column))]
    else:
        messages = read_prompt(account, "a question")
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages or messages[-1].role == "system" or not any(message.content.strip() for message in messages):
        raise RefusedError("no_prompt", "no turn of a user; expected a question")
    return messages


def _asks(name: str) -> bool:
    return name == "history" or meaning_of(name, inside=False) in ASKS
