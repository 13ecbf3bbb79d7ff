"""Which format a record has: every example, and what is near to one."""

from __future__ import annotations

import pytest
from records import EXAMPLES, QA, TURNS, read, said

from raysft.data.formats import detect_format


def test_a_named_format_is_not_detected():
    record = {"instruction": "q", "output": "a", "messages": [{"role": "assistant", "content": "m"}]}
    assert detect_format(record) == "messages"
    assert said(record, format="alpaca") == [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("noise", [{}, {"id": 1, "source": "x", "difficulty": 0.5}])
def test_each_example_is_detected_and_read_alike_by_name(name, noise):
    record = {**EXAMPLES[name], **noise}
    assert detect_format(record) == name
    assert read(record) == read(record, format=name)
    assert said(record)[-1] == ("text" if name == "text" else "assistant", "a")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "q", "chosen": "a"}, None),
        ({"prompt": "q", "rejected": "a"}, None),
        ({"prompt": "q", "responses": "a"}, None),
        ({"responses": ["a"], "scores": [1]}, None),
        ({"question": "q", "answer": "a"}, None),
        ({"prompt": "q", "completion": "a"}, "completion"),
        ({"prompt": "q", "completions": ["a", "b"]}, "completion"),
        ({"query": "q", "response": "a", "messages": None}, "completion"),
        ({"instruction": "q", "input": ""}, None),
        ({"noisy_answer": "n", "critique": "c"}, None),
        ({"label": "a"}, None),
        ({"messages": "text", "conversations": "text"}, None),
        ({"metadata": {"language": "en"}}, None),
        ({**EXAMPLES["alpaca"], "metadata": "not an object"}, "alpaca"),
        ({**EXAMPLES["alpaca"], "text": "both", "label": 1}, "alpaca"),
        ({**EXAMPLES["alpaca"], **EXAMPLES["preference"]}, "preference"),
        ({**EXAMPLES["messages"], **EXAMPLES["preference"]}, "preference"),
        ({**EXAMPLES["messages"], **EXAMPLES["text"]}, "messages"),
        ({**EXAMPLES["sharegpt"], "answers": ["a"], "ranks": [1]}, "ranking"),
        ({**EXAMPLES["critique"], "response": "a", "output": "b", "instruction": "i"}, "critique"),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, "labelled"),
        ({"content": "a"}, "text"),
        ({"text": "a", "label_text": "b"}, "text"),
    ],
)
def test_near_misses(record, expected):
    found = detect_format(record)
    assert (found if expected else found.reason) == (expected or "unknown_format")


@pytest.mark.parametrize("empty", [None, "", [], {}])
def test_columns_that_hold_nothing_are_no_columns(empty: object) -> None:
    names = (
        "messages",
        "conversations",
        "prompt",
        "completion",
        "chosen",
        "rejected",
        "critique",
        "question",
        "tools",
    )
    nothing = dict.fromkeys(names, empty)
    assert said({**nothing, "messages": TURNS}) == QA
    assert said({**nothing, "conversations": TURNS}) == QA
    assert said({**nothing, "instruction": "q", "output": "a", "metadata": None}) == [
        ("user", "q"),
        ("assistant", "a"),
    ]
    assert said({**nothing, "prompt": "q", "completion": "a"}) == QA
