"""Records of each format: prompts, answers, the best of several, and what each refuses."""

from __future__ import annotations

import json

import pytest
from records import EXAMPLES, A, U

from raysft.data.formats import Reading, read_record
from raysft.data.records import Candidate, Conversation, Message, Refusal


def read(record, format="auto", **columns):
    found = read_record(record, Reading(format=format, columns=columns), id=7, source="f")
    return found if isinstance(found, Refusal) else found[0]


def turns(record, **kwargs):
    found = read(record, **kwargs)
    assert isinstance(found, Conversation), found
    return [(message.role, message.content) for message in found.messages]


def test_alpaca():
    assert turns({"instruction": "add", "input": "1 2", "output": "3"}) == [("user", "add\n1 2"), ("assistant", "3")]
    record = {"instruction": "q", "input": "", "output": "a", "system": "s", "history": [["q0", "a0"]]}
    assert turns(record) == [
        ("system", "s"),
        ("user", "q0"),
        ("assistant", "a0"),
        ("user", "q"),
        ("assistant", "a"),
    ]


def test_unified_metadata():
    found = read({**EXAMPLES["unified"], "metadata": {"difficulty": 3, "tags": ["x"], "none": None}, "n": True})
    assert found.metadata == {"id": "7", "difficulty": 3, "n": True}
    assert turns(EXAMPLES["unified"])[0] == ("user", "q\ni")


@pytest.mark.parametrize(
    "answer",
    [
        "a",
        {"from": "gpt", "value": "a"},
        {"role": "assistant", "content": "a"},
        {"text": "a"},
        [{"role": "assistant", "content": "a"}],
    ],
)
@pytest.mark.parametrize(
    "prompt",
    [
        {"prompt": "q"},
        {"question": "q"},
        {"instruction": "q", "input": ""},
        {"conversations": [{"from": "human", "value": "q"}]},
        {"prompt": [U]},
    ],
)
def test_preference(prompt, answer):
    found = read({**prompt, "system": "s", "chosen": answer, "rejected": "b"})
    assert turns({**prompt, "system": "s", "chosen": answer, "rejected": "b"}) == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
    ]
    assert found.candidates == (
        Candidate((Message("assistant", "a"),), 1.0),
        Candidate((Message("assistant", "b"),), 0.0),
    )


def test_preference_of_whole_conversations():
    start = [U, {"role": "assistant", "content": "one"}, {"role": "user", "content": "q2"}]
    record = {"prompt": "q", "chosen": [*start, A], "rejected": [*start, {"role": "assistant", "content": "b"}]}
    found = read(record)
    assert [content for _, content in turns(record)] == ["q", "one", "q2", "a"]
    assert [candidate.messages[0].content for candidate in found.candidates] == ["a", "b"]
    record["rejected"] = [U, {"role": "assistant", "content": "other"}, {"role": "user", "content": "q3"}, A]
    found = read(record)
    assert [len(candidate.messages) for candidate in found.candidates] == [3, 3], "they part at the first answer"
    same = read({"chosen": [U, A], "rejected": [U, A]})
    assert [len(candidate.messages) for candidate in same.candidates] == [1, 1]
    assert read({"chosen": [U, A], "rejected": [{"role": "user", "content": "?"}, A]}).reason == "role_order"


@pytest.mark.parametrize(
    ("columns", "scores", "best"),
    [
        ({"responses": ["b", "a", "c"], "scores": [0, 2, 2.0]}, [0, 2, 2], "a"),
        ({"candidates": ["b", "a", "c"], "ranks": [2, 1, 3]}, [-2, -1, -3], "a"),
        ({"answers": [{"text": "b", "score": 1}, {"content": "a", "score": 3}]}, [1, 3], "a"),
        ({"answers": [{"text": "a", "rank": 0}, {"text": "b", "rank": 5}]}, [0, -5], "a"),
        ({"responses": [{"role": "assistant", "content": "a", "score": 1}]}, [1], "a"),
    ],
)
def test_ranking(columns, scores, best):
    found = read({"question": "q", **columns})
    assert [candidate.score for candidate in found.candidates] == scores
    assert found.messages == (Message("user", "q"), Message("assistant", best))
    assert Message("assistant", best) in found.candidates[scores.index(max(scores))].messages


def test_critique():
    (role, content), answer = turns({"instruction": "1+1?", "answer": "3", "critique": "wrong", "system": ""})
    assert (role, answer) == ("user", ("assistant", "wrong"))
    assert content == (
        "Please critique whether the following solution to the question is correct.\n\n"
        "Question:\n1+1?\n\nSolution:\n3"
    )
    assert "Solution:\nn" in turns({**EXAMPLES["critique"], "answer": "not this"})[0][1]


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"label": "x"}, "x"),
        ({"label": 3}, "3"),
        ({"label": 3.0}, "3"),
        ({"label": True}, "true"),
        ({"label": 1, "label_text": "positive"}, "positive"),
    ],
)
def test_labels(columns, label):
    found = read({"text": "t", "text2": "u", **columns})
    assert found.label == label
    assert [(m.role, m.content) for m in found.messages] == [("user", "t\nu"), ("assistant", label)]


def test_plain_text():
    found = read({"content": "some\ntext", "url": "u"})
    assert found.messages == (Message("text", "some\ntext"),)
    assert found.metadata == {"url": "u"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**EXAMPLES["alpaca"], "history": 5}, "wrong_type"),
        ({**EXAMPLES["preference"], "prompt": None}, "missing_column"),
        ({**EXAMPLES["preference"], "chosen": 5}, "wrong_type"),
        ({**EXAMPLES["preference"], "chosen": []}, "no_assistant_turn"),
        ({**EXAMPLES["preference"], "chosen": ""}, "empty_answer"),
        ({**EXAMPLES["ranking"], "scores": None}, "several_answers"),
        ({**EXAMPLES["ranking"], "scores": [1]}, "wrong_type"),
        ({**EXAMPLES["ranking"], "scores": [1, float("nan")]}, "wrong_type"),
        ({**EXAMPLES["ranking"], "scores": [1, 10**400]}, "wrong_type"),
        ({**EXAMPLES["ranking"], "scores": [1, True]}, "wrong_type"),
        ({**EXAMPLES["ranking"], "responses": []}, "wrong_type"),
        ({**EXAMPLES["critique"], "noisy_answer": None}, "wrong_type"),
        ({**EXAMPLES["critique"], "critique": ""}, "empty_answer"),
        ({**EXAMPLES["labelled"], "label": None}, "wrong_type"),
        ({**EXAMPLES["labelled"], "label": 0.5}, "wrong_type"),
        ({"text": " \n"}, "empty_answer"),
    ],
)
def test_refusals_of_the_other_formats(record, reason):
    found = read(record)
    assert isinstance(found, Refusal), found
    assert found.reason == reason


@pytest.mark.shared
def test_real_preferences(shared):
    records = json.loads((shared / "dpo_en_demo.json").read_text("utf-8"))
    for record in records:
        found = read(record)
        best, worst = found.candidates
        assert (best.score, worst.score) == (1.0, 0.0)
        assert found.messages[-1].content == best.messages[0].content == record["chosen"]["value"]
        assert worst.messages[0].content == record["rejected"]["value"]
        assert len(found.messages) == len(record["conversations"]) + 1


@pytest.mark.shared
def test_real_plain_text(shared):
    lines = [line for line in (shared / "wiki_demo.txt").read_text("utf-8").splitlines() if line.strip()]
    for line in lines:
        assert read({"text": line}).messages == (Message("text", line),)
    assert lines
