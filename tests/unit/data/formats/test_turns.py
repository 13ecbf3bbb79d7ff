"""Turns as every tool writes them: their speaker, text, reasoning and whether they are trained."""

from __future__ import annotations

import json
from typing import Any

import pytest
from records import QA, A, U, kept, refused, said

from raysft.data.records import Message

THOUGHT = {"role": "assistant", "content": "12"}


@pytest.mark.parametrize(
    "answer",
    [
        *({**THOUGHT, key: "3 * 4"} for key in ("reasoning_content", "reasoning", "thinking", "thought", "cot")),
        {**THOUGHT, "reasoning": "3 * 4", "reasoning_content": "3 * 4", "thinking": None},
        {**THOUGHT, "content": [{"type": "thinking", "thinking": "3 * 4"}, {"type": "text", "text": "12"}]},
        {**THOUGHT, "content": [{"type": "reasoning", "value": "3 * 4"}, {"type": "text", "value": "12"}]},
        {
            **THOUGHT,
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "3 * 4"}], "text": None, "signature": "x"},
                {"type": "text", "text": "12", "thinking": None},
            ],
        },
        {"from": "gpt", "value": "12", "reasoning": "3 * 4"},
    ],
)
def test_reasoning_is_kept_apart_whoever_wrote_it(answer: dict[str, Any]) -> None:
    assert kept({"messages": [U, answer]}).messages[1] == Message("assistant", "12", reasoning="3 * 4")


def test_reasoning_in_the_channels_of_harmony() -> None:
    turns = [U, {**A, "channel": "analysis", "content": "hm"}, {**A, "channel": "final"}]
    assert kept({"messages": turns}).messages == (Message("user", "q"), Message("assistant", "a", reasoning="hm"))
    assert refused({"messages": turns[:2]}).reason == "unread:channel"
    assert refused({"messages": [U, {**A, "channel": "commentary"}]}).reason == "unread:channel"


def test_reasoning_inside_the_text_stays_there() -> None:
    inline = {"role": "assistant", "content": "<think>\n3 * 4\n</think>\n\n12"}
    assert kept({"messages": [U, inline]}).messages[1] == Message("assistant", inline["content"])
    assert kept({"messages": [U, {**inline, "reasoning": "3 * 4"}]}).messages[1].reasoning == ""
    assert refused({"messages": [U, {**inline, "reasoning": "4 * 3"}]}).reason == "two_reasonings"
    assert refused({"messages": [U, {**A, "reasoning": "x", "thinking": "y"}]}).reason == "two_reasonings"


FLAGS = (
    *(("train", False), ("training", False), ("trainable", False)),  # Axolotl, verl
    *(("loss", False), ("loss_scale", 0.0), ("loss_mask", 0), ("loss_weight", 0.0), ("weight", 0)),
)


@pytest.mark.parametrize(("name", "off"), FLAGS)
def test_a_turn_that_is_not_to_be_trained_is_not(name: str, off: object) -> None:
    on = type(off)(1)
    turns = [{**U, name: off}, {**A, name: off}, U, {**A, name: on}, U, {**A, name: None}]
    assert [message.train for message in kept({"messages": turns}).messages] == [False, False, None, True, None, None]
    assert refused({"messages": [{**U, name: on}, A]}).reason == "trained_prompt"
    assert refused({"messages": [U, {**A, name: 0.5}]}).reason == "wrong_type"
    assert (
        refused({"messages": [U, {**A, name: off, "loss" if name != "loss" else "train": True}]}).reason
        == "wrong_type"
    )


def test_an_assistant_may_begin() -> None:
    assert said({"messages": [A]}) == [("assistant", "a")]
    assert (
        said({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "q"}, A]})[0][0]
        == "assistant"
    )


def test_data_columns_names_the_keys_of_turns() -> None:
    record = {"dialog": [{"speaker": "user", "utterance": "q"}, {"speaker": "bot", "utterance": "a", "why": "hm"}]}
    columns = {"messages": "dialog", "role": "speaker", "content": "utterance", "reasoning": "why"}
    found = kept(record, columns=columns)
    assert found.messages == (Message("user", "q"), Message("assistant", "a", reasoning="hm"))
    assert found.notes == ()


def test_calls_and_texts_of_ms_swift_and_llama_factory() -> None:
    call = json.dumps({"name": "f", "arguments": {"x": 1}})
    swift = [U, {"role": "tool_call", "content": call}, {"role": "tool_response", "content": "r"}, A]
    factory = [{"role": "function_call", "content": call}, {"role": "observation", "content": "r"}]
    for turns in (swift, [U, *factory, A]):
        found = kept({"messages": turns}).messages
        assert [message.role for message in found] == ["user", "assistant", "tool", "assistant"]
        assert found[1].tool_calls[0]["function"] == {"name": "f", "arguments": {"x": 1}}
        assert found[1].content == ""


def test_two_speakers_of_a_turn_are_the_same_or_told_or_refused() -> None:
    assert said({"messages": [U, {**A, "from": "gpt"}]}) == QA
    assert [note.name for note in kept({"messages": [U, {**A, "from": "alice"}]}).notes] == ["messages[].from"]
    for other in ("user", "function_call"):
        assert refused({"messages": [U, {**A, "from": other}]}).reason == "wrong_type"


def test_a_talk_as_a_list_of_texts() -> None:
    talk = kept({"conversations": ["q", "a", "p", "[b]"], "source": "x"})
    assert [(m.role, m.content) for m in talk.messages] == [*QA, ("user", "p"), ("assistant", "[b]")]
    assert [note.kind for note in talk.notes] == ["guess"]
    assert said({"id": "0", "data": ["q", "a"]}, columns={"conversations": "data"}) == QA
    assert said({"conversations": [json.dumps(U), json.dumps(A)]}) == QA
    assert refused({"conversations": ["q", "a", "p"]}).reason == "ends_in_user_turn"
    assert refused({"conversations": ["q", 1]}).reason == "wrong_type"
    assert refused({"prompt": ["q", "a"], "completion": "b"}).reason == "wrong_type"
