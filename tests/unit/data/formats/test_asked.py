"""What a record asks, whatever answers it: system, earlier turns, a talk in a text."""

from __future__ import annotations

from typing import Any

import pytest

from raysft.data.formats import Reading, read_record
from raysft.data.records import Refusal

ENDS: list[dict[str, Any]] = [
    {"response": "r"},
    {"completion": "r"},
    {"chosen": "r", "rejected": "s"},
    {"responses": ["r", "s"], "scores": [2, 1]},
]


def said(record: dict[str, Any]) -> list[tuple[str, str]]:
    found = read_record(record, Reading(), id=1, source="f")
    assert not isinstance(found, Refusal), found
    return [(message.role, message.content) for message in found[0].messages]


@pytest.mark.parametrize("end", ENDS)
def test_history_comes_before_the_question_in_every_format(end: dict[str, Any]) -> None:
    record = {"query": "q", "system": "s", "history": [["a", "b"], ["c", "d"]], **end}
    expected = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "q")]
    assert said(record) == [*expected, ("assistant", "r")]


def test_answers_of_the_history_are_no_completion() -> None:
    found = read_record({"query": "q", "response": "r", "history": [["a", "b"]]}, Reading(), id=1, source="f")
    assert not isinstance(found, Refusal)
    assert [message.train for message in found[0].messages if message.role == "assistant"] == [False, None]


@pytest.mark.parametrize("end", ENDS)
def test_a_prompt_that_is_a_talk_is_read_as_turns(end: dict[str, Any]) -> None:
    prompt = "\n\nHuman: a\n\nAssistant: b\n\nHuman: q\n\nAssistant:"
    assert said({"prompt": prompt, **end}) == [("user", "a"), ("assistant", "b"), ("user", "q"), ("assistant", "r")]
    found = read_record({"prompt": prompt, **end}, Reading(), id=1, source="f")
    assert not isinstance(found, Refusal)
    assert [note.kind for note in found[0].notes] == ["guess"]
    unanswered = "\n\nHuman: a\n\nAssistant: b"
    assert said({"prompt": unanswered, **end})[0] == ("user", unanswered), "that waits for no answer"


@pytest.mark.parametrize("history", ["a", [["a"]], ["a", "b"], [{"q": "a"}], [["a", None]], {"a": "b"}])
def test_a_history_of_anything_else_is_refused(history: Any) -> None:
    found = read_record({"query": "q", "response": "r", "history": history}, Reading(), id=1, source="f")
    assert isinstance(found, Refusal)
    assert "`history`" in found.detail
