"""Answers in columns: one or several, of text or turns, with their reasoning beside them."""

from __future__ import annotations

import json

import pytest
from records import QA, TURNS, A, U, kept, refused, said

from raysft.data.formats import Reading, read_record
from raysft.data.records import Message, Refusal


@pytest.mark.parametrize("columns", [{}, {"reasoning": "Complex_CoT"}])
def test_reasoning_in_a_column_beside_the_answer(columns: dict[str, str]) -> None:
    name = columns.get("reasoning", "reasoning")
    for record in ({"instruction": "q", "output": "a"}, {"prompt": "q", "completion": "a"}):
        assert kept({**record, name: "hm"}, columns=columns).messages[-1] == Message("assistant", "a", reasoning="hm")
    assert refused({"instruction": "q", "output": "a", "Complex_CoT": "hm"}).reason == "unread:Complex_CoT"
    assert refused({"instruction": "q", "output": "a", "reasoning": "on"}).reason == "unread:reasoning", "a switch"
    assert refused({"messages": [U, A], "reasoning": "hm"}).reason == "unread:reasoning"
    assert refused({"messages": [{**U, "reasoning": "hm"}, A]}).reason == "unread:reasoning"


@pytest.mark.parametrize("prompt", ["q", [U], json.dumps([U]), {"role": ["user"], "content": ["q"]}])
@pytest.mark.parametrize("completion", ["a", [A], A, json.dumps([A])])
def test_prompt_and_completion(prompt: object, completion: object) -> None:
    assert said({"prompt": prompt, "completion": completion}) == QA


def test_only_the_completion_is_trained() -> None:
    found = kept({"prompt": [U, A, U], "completion": [A], "system": "s"})
    assert [(m.role, m.train) for m in found.messages] == [
        ("system", None),
        *(("user", None), ("assistant", False), ("user", None), ("assistant", None)),
    ]
    assert refused({"prompt": "q", "completion": "a", "label": False}).reason == "unwanted_answer"
    assert refused({"messages": [U, A], "label": False}).reason == "unwanted_answer"
    assert refused({"messages": [U, A], "label": "False"}).reason == "unwanted_answer"
    assert kept({"messages": [U, A], "label": "safe"}).notes[0].name == "label"
    assert said({"prompt": "q", "completion": "a", "label": True}) == QA


@pytest.mark.parametrize("label", [False, True, 0, 1, "false", "True"])
@pytest.mark.parametrize("record", [{"prompt": "q", "completion": "a"}, {"messages": [U, A]}])
def test_answers_that_are_judged_are_read_whatever_their_label(record: dict[str, object], label: object) -> None:
    (found,) = read_record({**record, "label": label}, Reading(judged=True), id=1, source="s")
    assert found.wanted is (label in (True, 1, "True"))
    assert [message.content for message in found.messages] == ["q", "a"]
    assert not found.notes


def test_several_answers_are_never_glued() -> None:
    for record in (
        {"prompt": "q", "completions": ["a", "b", "a"]},
        {"question": "q", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}},
        {"instruction": "q", "output": ["a", "b"]},
        {"question": "q", "answers": '["a", "b"]'},
    ):
        columns = {"prompt": "question"} if "question" in record and isinstance(record["answers"], str) else {}
        form = "completion" if columns else "auto"
        assert refused(record, columns=columns, format=form).reason == "several_answers", record
        first = read_record(record, Reading(form, columns, several_answers="first"), id=1, source="s")
        every = read_record(record, Reading(form, columns, several_answers="all"), id=1, source="s")
        assert not isinstance(first, Refusal), first
        assert not isinstance(every, Refusal), every
        assert [one.messages[-1].content for one in first] == ["a"]
        assert [one.messages[-1].content for one in every] == ["a", "b"]
        assert first[0].notes[-1].kind == "guess"
    assert said({"prompt": "q", "completions": ["a", "a"]}) == QA
    assert refused({"messages": [U, {**A, "content": ["a", "b"]}]}).reason == "several_texts"


def test_gold_answers_beside_messages_describe_the_record() -> None:
    found = kept({"messages": TURNS, "answers": ["a!"]})
    assert said({"messages": TURNS, "answers": ["a"]}) == QA
    assert [(note.kind, note.name) for note in found.notes] == [("unread", "answers")]


def test_a_prompt_that_stands_in_both_answers_is_not_trained_as_one() -> None:
    asked = "Q: What is 2+2?\n\nA:"
    whole = {"prompt": asked, "chosen": f"{asked} 4", "rejected": f"\n{asked} 5"}
    assert refused(whole).reason == "repeated_prompt"
    assert said({**whole, "rejected": "5"})[-1] == ("assistant", f"{asked} 4"), "one may take up the question"
    turns = [{"role": "user", "content": asked}]
    whole_turns = {**whole, "chosen": [*turns, A], "rejected": [*turns, {**A, "content": "b"}]}
    assert said(whole_turns) == [("user", asked), ("assistant", "a")]
