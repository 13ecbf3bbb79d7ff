"""Records of every format, and what reading one gives: for the tests of data/formats/."""

from __future__ import annotations

from typing import Any

from raysft.data.formats import Reading, read_record
from raysft.data.records import Conversation, Refusal

U: dict[str, Any] = {"role": "user", "content": "q"}
A: dict[str, Any] = {"role": "assistant", "content": "a"}
TURNS = [U, A]
QA = [("user", "q"), ("assistant", "a")]
EXAMPLES: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "unified": {"id": "7", "instruction": "q", "input": "i", "output": "a", "metadata": {"language": "en"}},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "messages": {"messages": [U, A]},
    "preference": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "ranking": {"prompt": "q", "responses": ["b", "a"], "scores": [0.1, 0.9]},
    "critique": {"question": "q", "noisy_answer": "n", "critique": "a"},
    "labelled": {"text": "q", "label": "a"},
    "text": {"text": "a"},
    "completion": {"prompt": "q", "completion": "a"},
}
"""A record of each format; the best answer is `a` in each."""


def read(record: dict[str, Any], **reading: Any) -> Conversation | Refusal:
    """The record's first conversation, or why there is none. reading: fields of Reading."""
    found = read_record(record, Reading(**reading), id=1, source="s")
    return found if isinstance(found, Refusal) else found[0]


def kept(record: dict[str, Any], **reading: Any) -> Conversation:
    """The record's first conversation."""
    found = read(record, **reading)
    assert isinstance(found, Conversation), found
    return found


def said(record: dict[str, Any], **reading: Any) -> list[tuple[str, str]]:
    """(role, text) of each message."""
    return [(message.role, message.content) for message in kept(record, **reading).messages]


def refused(record: dict[str, Any], **reading: Any) -> Refusal:
    """Why the record is refused."""
    found = read(record, **reading)
    assert isinstance(found, Refusal), found
    return found
