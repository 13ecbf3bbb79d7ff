"""Columns that belong to what is read: a record is not trained on the half of what it says."""

from __future__ import annotations

from typing import Any

import pytest

from raysft.data.formats import Reading, read_record
from raysft.data.records import Conversation, Refusal

TURNS = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "B"}]


def read(record: dict[str, Any], **reading: Any) -> Conversation | Refusal:
    found = read_record(record, Reading(**reading), id=1, source="s")
    return found if isinstance(found, Refusal) else found[0]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("question", {"instruction": "Answer.", "question": "What is 2+2?", "output": "4"}),
        ("query", {"prompt": "Answer in French.", "query": "How?", "completion": "Ainsi"}),
        ("instruction", {"question": "How?", "instruction": "Be brief.", "response": "So"}),
        ("prompt", {"text": "good film", "label": "yes", "prompt": "Is it praise?"}),
        ("options", {"instruction": "Which?", "options": ["red", "blue"], "output": "B"}),
        ("choices", {"prompt": "Which?", "choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "response": "B"}),
        ("answer", {"text": "What is 2+2?", "answer": "4"}),
        ("summary", {"content": "A long tale.", "summary": "A tale."}),
        ("responses", {"text": "Which?", "responses": ["a"]}),
        ("role", {"text": "hello", "role": "prompter", "message_id": "1"}),
    ],
)
def test_a_half_refuses_the_record_by_name(name: str, record: dict[str, Any]) -> None:
    refusal = read(record)
    assert isinstance(refusal, Refusal), refusal
    assert refusal.reason == f"unread:{name}"
    assert isinstance(read(record, ignored=frozenset([name])), Conversation), "the refusal's way out"


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Answer.", "question": "2+2?", "input": "So: 2+2?", "output": "4"},
        {
            "instruction": "Add.",
            "input": "2 and 2",
            "prompt": "### Instruction: Add.\n### Input: 2 and 2",
            "output": "4",
        },
        {"instruction": "red or blue?", "options": ["red", "blue"], "output": "blue"},
        {"instruction": "1 or 2?", "options": [1, 2], "question": None, "choices": [], "output": "2"},
        {"messages": TURNS, "question": "Which one?", "options": ["red", "blue"], "answer": "blue"},
        {"text": "Q: 2+2? A: 4", "question": "2+2?", "answer": "4"},
        {"prompt": "q", "completion": "a", "original_question": "what?"},
    ],
)
def test_what_is_said_already_is_no_half(record: dict[str, Any]) -> None:
    assert isinstance(read(record), Conversation)


def test_a_text_that_the_recipe_calls_one_is_one() -> None:
    found = read({"text": "A long tale.", "summary": "A tale."}, format="text")
    assert isinstance(found, Conversation)
    assert [note.name for note in found.notes] == ["summary"]


def test_a_question_and_its_response_under_any_names() -> None:
    for question in ("instruction", "question", "query", "prompt"):
        found = read({question: "q", "response": "a", "category": "x"})
        assert isinstance(found, Conversation)
        assert [(m.role, m.content) for m in found.messages] == [("user", "q"), ("assistant", "a")]
