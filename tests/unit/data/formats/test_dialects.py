"""Records as other tools write them: each has to mean here what it means there, or be refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raysft.data.formats import Reading, read_record
from raysft.data.records import Conversation, Message, Refusal

U: dict[str, Any] = {"role": "user", "content": "q"}
A: dict[str, Any] = {"role": "assistant", "content": "a"}
QA = [("user", "q"), ("assistant", "a")]


def read(record: dict[str, Any], **reading: Any) -> Conversation | Refusal:
    found = read_record(record, Reading(**reading), id=1, source="s")
    return found if isinstance(found, Refusal) else found[0]


def kept(record: dict[str, Any], **reading: Any) -> Conversation:
    found = read(record, **reading)
    assert isinstance(found, Conversation), found
    return found


def said(record: dict[str, Any], **reading: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in kept(record, **reading).messages]


def refused(record: dict[str, Any], **reading: Any) -> Refusal:
    found = read(record, **reading)
    assert isinstance(found, Refusal), found
    return found


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


@pytest.mark.parametrize("columns", [{}, {"reasoning": "Complex_CoT"}])
def test_reasoning_in_a_column_beside_the_answer(columns: dict[str, str]) -> None:
    name = columns.get("reasoning", "reasoning")
    for record in ({"instruction": "q", "output": "a"}, {"prompt": "q", "completion": "a"}):
        assert kept({**record, name: "hm"}, columns=columns).messages[-1] == Message("assistant", "a", reasoning="hm")
    assert refused({"instruction": "q", "output": "a", "Complex_CoT": "hm"}).reason == "unread:Complex_CoT"
    assert refused({"instruction": "q", "output": "a", "reasoning": "on"}).reason == "unread:reasoning", "a switch"
    assert refused({"messages": [U, A], "reasoning": "hm"}).reason == "unread:reasoning"
    assert refused({"messages": [{**U, "reasoning": "hm"}, A]}).reason == "unread:reasoning"


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


@pytest.mark.parametrize("name", ["train_detail", "assistant_masks", "labels", "completion_mask", "loss_mask"])
def test_flags_that_cannot_be_followed_are_refused_by_name(name: str) -> None:
    inside = {"messages": [U, {**A, name: [1, 0]}]}
    read_inside = name in ("loss_mask", "train_detail")
    assert refused(inside).reason == ("wrong_type" if read_inside else f"unread:{name}")
    assert refused({"messages": [U, A], name: [1, 0]}).reason == f"unread:{name}"
    assert kept({"messages": [U, A], name: [1, 0]}, ignored=frozenset((name,))).notes[0].kind == "ignored"


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
    assert kept({"messages": [U, A], "label": "safe"}).notes[0].name == "label"
    assert said({"prompt": "q", "completion": "a", "label": True}) == QA


def test_an_assistant_may_begin() -> None:
    assert said({"messages": [A]}) == [("assistant", "a")]
    assert (
        said({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "q"}, A]})[0][0]
        == "assistant"
    )


def test_openai_functions_of_old() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}
    result = {"role": "function", "name": "f", "content": "r"}
    found = kept({"messages": [U, call, result, A], "functions": [{"name": "f", "parameters": {}}]})
    assert found.messages[1].tool_calls == ({"type": "function", "function": {"name": "f", "arguments": {"x": 1}}},)
    assert found.messages[2] == Message("tool", "r", name="f")
    assert found.tools == ({"type": "function", "function": {"name": "f", "parameters": {}}},)
    beside = {**call, "content": "I look"}
    assert kept({"messages": [U, beside, result, A]}).messages[1].content == "I look"
    assert refused({"messages": [U, {**call, "tool_calls": [{"name": "g"}]}, result, A]}).reason == "wrong_type"


@pytest.mark.parametrize("arguments", ["", " ", None, "null", {}, "{}"])
def test_a_call_without_arguments_has_the_empty_object(arguments: object) -> None:
    turns = [U, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]
    assert kept({"messages": turns}).messages[1].tool_calls[0]["function"] == {"name": "f", "arguments": {}}


@pytest.mark.parametrize("arguments", ["x = 1", "[1]", "5", [1], 5, '{"x": 1'])
def test_arguments_that_are_no_object_are_refused(arguments: object) -> None:
    turns = [U, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}]
    assert refused({"messages": turns}).reason == "bad_arguments"


TURNS = [U, A]


@pytest.mark.parametrize(
    "value",
    [
        json.dumps(TURNS),
        str(TURNS),  # as pandas writes a list into a CSV file
        [json.dumps(turn) for turn in TURNS],
        {"role": ["user", "assistant"], "content": ["q", "a"]},
        {"role": ["user", "assistant"], "content": ["q", "a"], "weight": None},
        [
            {"role": "user", "content": "q", "from": None},
            {"from": "gpt", "value": "a", "role": None, "content": None},
        ],
        [{"human": "q", "assistant": "a"}],  # ms-swift
        [{"input": "q", "output": "a"}],  # Capybara
    ],
)
@pytest.mark.parametrize("column", ["messages", "conversations", "conversation"])
def test_turns_however_they_are_written(column: str, value: object) -> None:
    assert said({column: value}) == QA


NO_TURNS = ["[1, 2", "{'a': open('x')}", "[" * 5000, "[" * 150 + "]" * 150, "text", {"role": [1], "content": []}]


@pytest.mark.parametrize("value", NO_TURNS)
def test_turns_that_are_none_are_refused(value: object) -> None:
    assert refused({"messages": value}).reason in ("unknown_format", "wrong_type", "no_assistant_turn")


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


@pytest.mark.parametrize(
    "record", [{"messages": TURNS}, {"conversations": TURNS}, {"instruction": "q", "output": "a"}]
)
def test_a_system_column(record: dict[str, Any]) -> None:
    expected = [("system", "s"), ("user", "q"), ("assistant", "a")]
    assert said({**record, "system": "s"}) == expected
    assert said({**record, "sp": "s"}, columns={"system": "sp"}) == expected
    found = refused({**record, "system_prompt": "s"})
    assert found.reason == "unread:system_prompt"
    assert "data.columns: {system: system_prompt}" in found.detail
    turns = [{"role": "system", "content": "s"}, U, A]
    assert said({"messages": turns, "system": "s"}) == expected
    assert refused({"messages": turns, "system": "t"}).reason == "two_system_turns"


def test_data_columns_names_the_keys_of_turns() -> None:
    record = {"dialog": [{"speaker": "user", "utterance": "q"}, {"speaker": "bot", "utterance": "a", "why": "hm"}]}
    columns = {"messages": "dialog", "role": "speaker", "content": "utterance", "reasoning": "why"}
    found = kept(record, columns=columns)
    assert found.messages == (Message("user", "q"), Message("assistant", "a", reasoning="hm"))
    assert found.notes == ()


def test_a_mapping_that_the_format_does_not_use_is_refused() -> None:
    columns = {"instruction": "question", "output": "answer"}
    found = refused({"question": "q", "answer": "a", "messages": TURNS}, columns=columns)
    assert (found.reason, "`question`" in found.detail) == ("unused_mapping", True)
    absent = kept({"messages": TURNS}, columns={"system": "sytem"})
    assert [(note.kind, note.name) for note in absent.notes] == [("absent", "system: sytem")]


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


def test_calls_and_texts_of_ms_swift_and_llama_factory() -> None:
    call = json.dumps({"name": "f", "arguments": {"x": 1}})
    swift = [U, {"role": "tool_call", "content": call}, {"role": "tool_response", "content": "r"}, A]
    factory = [{"role": "function_call", "content": call}, {"role": "observation", "content": "r"}]
    for turns in (swift, [U, *factory, A]):
        found = kept({"messages": turns}).messages
        assert [message.role for message in found] == ["user", "assistant", "tool", "assistant"]
        assert found[1].tool_calls[0]["function"] == {"name": "f", "arguments": {"x": 1}}
        assert found[1].content == ""


def test_arguments_in_a_text_keep_their_digits() -> None:
    number = 123456789012345678901234
    for arguments in ({"n": number}, json.dumps({"n": number})):
        turns = [U, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}]
        assert kept({"messages": turns}).messages[1].tool_calls[0]["function"]["arguments"] == {"n": number}


@pytest.mark.parametrize("arguments", ['{"x": 1, "x": 2}', "{'x': 1, 'x': 2}", '{"x": {"y": 1, "y": [2]}}'])
def test_a_key_twice_in_the_json_of_a_string_refuses_the_record(arguments: str) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    assert (
        refused({"messages": [U, {"role": "assistant", "content": "", "tool_calls": [call]}]}).reason
        == "repeated_key"
    )
    tools = f'[{{"name": "f", "parameters": {arguments}}}]'
    assert refused({"messages": [U, A], "tools": tools}).reason == "repeated_key"
    turns = '[{"role": "user", "content": "q", "content": "p"}, {"role": "assistant", "content": "a"}]'
    assert refused({"messages": turns}).reason == "repeated_key"
    assert refused({"dialog": turns}, columns={"messages": "dialog"}).reason == "repeated_key"
    assert refused({"instruction": "q", "output": "a", "metadata": arguments}).reason == "repeated_key"


def test_a_key_that_says_the_same_twice_is_read() -> None:
    call = {"function": {"name": "f", "arguments": '{"x": "\\"", "x": "\\""}'}}
    assert kept({"messages": [U, {"role": "assistant", "content": "", "tool_calls": [call]}]}).messages[
        1
    ].tool_calls == ({"type": "function", "function": {"name": "f", "arguments": {"x": '"'}}},)


def test_a_prompt_that_stands_in_both_answers_is_not_trained_as_one() -> None:
    asked = "Human: What is 2+2?\n\nAssistant:"
    whole = {"prompt": asked, "chosen": f"{asked} 4", "rejected": f"\n{asked} 5"}
    assert refused(whole).reason == "repeated_prompt"
    assert said({**whole, "rejected": "5"})[-1] == ("assistant", f"{asked} 4"), "one may take up the question"
    turns = [{"role": "user", "content": asked}]
    whole_turns = {**whole, "chosen": [*turns, A], "rejected": [*turns, {**A, "content": "b"}]}
    assert said(whole_turns) == [("user", asked), ("assistant", "a")]


def test_what_a_plain_text_or_a_name_may_hide_is_told() -> None:
    for text in (
        "### Human: q### Assistant: a",
        "<s>[INST] q [/INST] a</s>",
        "### Instruction:\nq\n### Response:\na",
    ):
        assert [note.kind for note in kept({"text": text}).notes] == ["guess"]
    assert not kept({"text": "An assistant: a helper in a shop. # Response"}).notes
    notes = kept({"messages": [{**U, "name": "alice"}, A]}).notes
    assert [note.name for note in notes] == ["`messages[].name` says who speaks: most templates leave it out"]
    call = {"function": {"name": "f", "arguments": "{}"}}
    turns = [
        U,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "f", "content": "r"},
        A,
    ]
    assert not kept({"messages": turns}).notes


def test_two_speakers_of_a_turn_are_the_same_or_told_or_refused() -> None:
    assert said({"messages": [U, {**A, "from": "gpt"}]}) == QA
    assert [note.name for note in kept({"messages": [U, {**A, "from": "alice"}]}).notes] == ["messages[].from"]
    for other in ("user", "function_call"):
        assert refused({"messages": [U, {**A, "from": other}]}).reason == "wrong_type"


@pytest.mark.parametrize(
    ("name", "off"),
    [
        *(("ignore", True), ("masked", True), ("is_masked", 1), ("skip", True), ("deleted", True), ("noLoss", True)),
        *(
            ("compute_loss", False),
            ("learn", 0),
            ("train_on_turn", False),
            ("supervised", False),
            ("do_not_train", 1),
        ),
    ],
)
def test_a_flag_in_other_words_refuses_a_turn_that_it_leaves_out(name: str, off: object) -> None:
    assert refused({"messages": [U, {**A, name: off}]}).reason == f"unread:{name}"
    assert [note.kind for note in kept({"messages": [U, {**A, name: not off}]}).notes] == ["unread"]
    assert [note.kind for note in kept({"messages": [U, {**A, name: "maybe"}]}).notes] == ["unread"]


def test_a_talk_as_a_list_of_texts() -> None:
    talk = kept({"conversations": ["q", "a", "p", "[b]"], "source": "x"})
    assert [(m.role, m.content) for m in talk.messages] == [*QA, ("user", "p"), ("assistant", "[b]")]
    assert [note.kind for note in talk.notes] == ["guess"]
    assert said({"id": "0", "data": ["q", "a"]}, columns={"conversations": "data"}) == QA
    assert said({"conversations": [json.dumps(U), json.dumps(A)]}) == QA
    assert refused({"conversations": ["q", "a", "p"]}).reason == "ends_in_user_turn"
    assert refused({"conversations": ["q", 1]}).reason == "wrong_type"
    assert refused({"prompt": ["q", "a"], "completion": "b"}).reason == "wrong_type"
