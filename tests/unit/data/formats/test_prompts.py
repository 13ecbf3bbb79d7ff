"""Questions of records of every format, with an answer and without one."""

from __future__ import annotations

from typing import Any

import pytest

from raysft.data.formats.prompts import ANSWER, read_question
from raysft.data.records import Refusal

ASKED = [("user", "2+2?")]


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        ({"prompt": "2+2?"}, ASKED),
        ({"text": "2+2?"}, ASKED),
        ({"question": "2+2?", "answer": "#### 4"}, ASKED),
        ({"instruction": "2+2?", "input": "", "output": "4"}, ASKED),
        ({"instruction": "Add", "input": "2+2"}, [("user", "Add\n2+2")]),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, ASKED),
        ({"messages": [{"role": "user", "content": "2+2?"}]}, ASKED),
        ({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}, ASKED),
        ({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}, ASKED),
        ({"prompt": [{"role": "user", "content": "2+2?"}], "id": 7}, ASKED),
        ({"system": "Count.", "prompt": "2+2?"}, [("system", "Count."), *ASKED]),
        (
            {"messages": [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]},
            [("user", "a"), ("assistant", "b"), ("user", "c")],
        ),
    ],
)
def test_the_last_answer_is_left_out(record: dict[str, Any], turns: list[tuple[str, str]]) -> None:
    found = read_question(record, 3)
    assert not isinstance(found, Refusal), found
    assert [(m.role, m.content) for m in found.messages] == [*turns, ("assistant", ANSWER)]


def test_a_system_prompt_is_for_those_without_one() -> None:
    found = [read_question(record, 0, system="S") for record in ({"prompt": "q"}, {"prompt": "q", "system": "own"})]
    assert [one.messages[0].content for one in found if not isinstance(one, Refusal)] == ["S", "own"]


def test_tools_are_a_part_of_the_question() -> None:
    tool = {"name": "add", "parameters": {}}
    for column in ("tools", "functions"):
        found = read_question({"prompt": "2+2?", column: [tool]}, 0)
        assert not isinstance(found, Refusal)
        assert found.tools[0]["function"]["name"] == "add"


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ({}, "no_prompt"),
        ({"output": "4"}, "no_prompt"),
        ({"prompt": ""}, "no_prompt"),
        ({"prompt": 5}, "wrong_type"),
        ({"messages": []}, ""),
        ({"messages": [{"role": "assistant", "content": "4"}]}, "no_prompt"),
        ({"messages": [{"role": "system", "content": "S"}]}, "no_prompt"),
        ({"messages": [{"role": "wizard", "content": "S"}]}, "role"),
        ({"instruction": "a", "history": ["b", "c"]}, "history"),
        ({"question": "a", "context": "a text to answer from"}, "context"),
        ({"prompt": "a", "system_prompt": "be brief"}, "system_prompt"),
    ],
)
def test_what_is_no_question_is_refused_by_name(record: dict[str, Any], word: str) -> None:
    found = read_question(record, 0)
    assert isinstance(found, Refusal)
    assert word in f"{found.reason} {found.detail}"
