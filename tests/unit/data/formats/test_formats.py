from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import EXAMPLES

from raysft.data.formats import Reading, read_record
from raysft.data.formats.fields import FIELDS
from raysft.data.records import Conversation, Refusal


def read(record, format="auto", **columns):
    found = read_record(record, Reading(format=format, columns=columns), id=7, source="f")
    return found if isinstance(found, Refusal) else found[0]


def turns(record, **kwargs):
    found = read(record, **kwargs)
    assert isinstance(found, Conversation), found
    return [(message.role, message.content) for message in found.messages]


@pytest.mark.parametrize("key", ["conversations", "messages"])
def test_sharegpt_by_from_and_value(key):
    record = {key: [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    assert turns(record) == [("system", "s"), ("user", "q"), ("assistant", "a")]


def test_sharegpt_by_role_and_content():
    record = {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert turns(record) == [("user", "q"), ("assistant", "a")]


def test_sharegpt_tools():
    record = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": "{\\"x\\": 1}"}'},
            {"from": "observation", "value": "r"},
            {"from": "gpt", "value": "a"},
        ],
        "tools": json.dumps([{"name": "f", "parameters": {}}]),
    }
    found = read(record)
    assert found.messages[1].tool_calls == ({"type": "function", "function": {"name": "f", "arguments": {"x": 1}}},)
    assert found.messages[2].role == "tool"
    assert found.tools == ({"type": "function", "function": {"name": "f", "parameters": {}}},)


def test_openai_messages():
    record = {
        "messages": [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "q1 "}, {"type": "text", "text": "q2"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
            },
            {"role": "tool", "content": "r", "tool_call_id": "c1"},
            {"role": "assistant", "content": "a", "weight": 0},
            {"role": "user", "content": "q3"},
            {"role": "assistant", "content": "b", "train": True},
        ]
    }
    found = read(record)
    assert turns(record)[:2] == [("system", "s"), ("user", "q1 q2")]
    assert found.messages[2].tool_calls[0]["id"] == "c1"
    assert found.messages[2].tool_calls[0]["function"]["arguments"] == {"x": 1}
    assert found.messages[3].tool_call_id == "c1"
    assert [message.train for message in found.messages] == [None, None, None, None, False, None, True]


def test_columns_are_mapped_and_unmapped_ones_ignored():
    record = {"question": "q", "answer": "a", "input": "not this", "n": 1}
    assert turns(record, instruction="question", output="answer", input="missing")[0] == ("user", "q\nnot this")
    assert turns({"instruction": "old", "q": "new", "output": "a"}, instruction="q")[0] == ("user", "new")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": 5}, "unknown_format"),
        ({}, "unknown_format"),
        ({"messages": []}, "no_assistant_turn"),
        ({"messages": [{"role": "user", "content": "q"}]}, "no_assistant_turn"),
        ({"instruction": "q", "output": "  "}, "empty_answer"),
        ({"instruction": "q", "output": 3}, "wrong_type"),
        ({"instruction": None, "output": "a"}, "wrong_type"),
        ({"instruction": "q", "output": "a", "history": ["x"]}, "wrong_type"),
        ({"messages": [{"role": "narrator", "content": "q"}]}, "unknown_role"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}, "wrong_type"),
        ({"messages": [{"content": "a"}, {"role": "user", "content": "a"}]}, "wrong_type"),
        ({"conversations": [{"from": "human", "value": "q"}, "x"]}, "wrong_type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "unsupported_content"),
        ({"messages": [{"role": "assistant", "content": "a", "train": "yes"}]}, "wrong_type"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}, "wrong_type"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"x": 1}]}]}, "wrong_type"),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "wrong_type"),
        ({"instruction": "q", "output": "a", "tools": "not json"}, "wrong_type"),
    ],
)
def test_refusals(record, reason):
    found = read(record)
    assert isinstance(found, Refusal), found
    assert found.reason == reason


def test_a_refusal_names_what_was_seen_and_expected():
    detail = read({"prompt": "q", "answer": "a"}).detail
    assert "answer, prompt" in detail
    assert "instruction" in detail
    assert "data.columns" in detail
    assert "output" in read({"instruction": "q"}, format="alpaca").detail


def test_other_scalar_columns_describe_the_record():
    record = {"question": "q", "answer": "a", "gender": "f", "score": 0.5, "n": 2, "list": [1], "none": None}
    found = read(record, instruction="question", output="answer")
    assert found.metadata == {"gender": "f", "score": 0.5, "n": 2}
    assert read({**EXAMPLES["labelled"], "gender": "m"}).metadata == {"gender": "m"}


def said(*roles: str) -> dict[str, object]:
    """A conversation of these roles; `call` is an assistant's call, `empty` and `muted` are assistant turns."""
    call = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}
    special = {
        "call": call,
        "empty": {"role": "assistant", "content": " \n"},
        "muted": {"role": "assistant", "content": "", "train": False},
    }
    return {"messages": [special.get(role) or {"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ("user user assistant", "role_order"),
        ("user assistant assistant", "role_order"),
        ("user call assistant", "role_order"),
        ("user tool assistant", "role_order"),
        ("user assistant tool assistant", "role_order"),
        ("user call tool", "role_order"),
        ("tool assistant", "role_order"),
        ("user assistant user", "ends_in_user_turn"),
        ("user assistant system", "role_order"),
        ("user empty", "empty_answer"),
        ("user empty user assistant", "empty_answer"),
        ("system user", "no_assistant_turn"),
    ],
)
def test_turns_out_of_order(roles, reason):
    found = read(said(*roles.split()))
    assert isinstance(found, Refusal)
    assert found.reason == reason


@pytest.mark.parametrize(
    "roles",
    [
        "user assistant",
        "assistant user assistant",
        "system assistant",
        "system developer user assistant user assistant",
        "user assistant system user assistant",
        "user call tool assistant",
        "user call tool tool call tool assistant",
        "user call",
        "user call tool user assistant",
        "user muted user assistant",
    ],
)
def test_turns_in_order(roles):
    assert isinstance(read(said(*roles.split())), Conversation)


def test_calls_in_a_row_are_one_turn():
    def call(name):
        return {"from": "function_call", "value": json.dumps({"name": name, "arguments": {}})}

    human, result = {"from": "human", "value": "q"}, {"from": "observation", "value": "r"}
    answer = {"from": "gpt", "value": "a"}
    found = read({"conversations": [human, answer, call("f"), call("g"), result, result, call("h"), result, answer]})
    assert [m.role for m in found.messages] == ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
    names = [[c["function"]["name"] for c in m.tool_calls] for m in found.messages]
    assert names == [[], ["f", "g"], [], [], ["h"], [], []]
    assert found.messages[1].content == "a"
    text_call = {"from": "gpt", "value": '<tool_call>{"name": "f"}</tool_call>'}
    assert isinstance(
        read({"conversations": [human, text_call, {"from": "tool", "value": "r"}, answer]}), Conversation
    )


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"instruction": "what is <image>?"}, "media_in_text_run"),
        ({"images": ["x.png"]}, "media_in_text_run"),
        ({"audio": {"path": "x"}}, "media_in_text_run"),
        ({"videos": [], "output": "<video>"}, "media_in_text_run"),
        ({"output": "a\0b"}, "nul_character"),
        ({"videos": [], "images": None}, None),
        ({"output": "<video> and <audio> are HTML; <images> is nothing"}, None),
    ],
)
def test_media_and_nul(columns, reason):
    found = read({**EXAMPLES["alpaca"], **columns})
    assert (found.reason if isinstance(found, Refusal) else None) == reason
    assert read({**EXAMPLES["preference"], "rejected": "\0"}).reason == "nul_character"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", "gpt", "tool", "\0", "[1]"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "from", "value", "content"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_records_are_read_or_refused(data):
    """Any value at any place of any format's record: never an exception, whatever format is named."""
    record = json.loads(json.dumps(data.draw(st.sampled_from(list(EXAMPLES.values())))))
    keys = sorted({key for fields in FIELDS.values() for key in fields})
    for _ in range(data.draw(st.integers(1, 3))):
        record[data.draw(st.sampled_from(keys))] = data.draw(values)
    turns = record.get("messages", record.get("conversations"))
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        turns[0][data.draw(st.sampled_from(["role", "from", "value", "tool_calls", "weight"]))] = data.draw(values)
    for format in ("auto", *EXAMPLES):
        found = read(record, format=format)
        if isinstance(found, Conversation):
            assert found.messages[-1].role in ("assistant", "text")
            assert all(isinstance(message.content, str) for message in found.messages)
        else:
            assert found.reason
            assert found.detail


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "columns", "count", "format"),
    [
        ("alpaca_en_demo.json", {}, 999, "alpaca"),
        ("alpaca_zh_demo.json", {}, 1000, "alpaca"),
        ("glaive_toolcall_en_demo.json", {}, 300, "sharegpt"),
        ("dpo_en_demo.json", {}, 300, "preference"),
        ("gsm8k_train.jsonl", {"instruction": "question", "output": "answer"}, 7473, "alpaca"),
        ("c4_demo.jsonl", {}, 300, "text"),
    ],
)
def test_real_files(shared, name, columns, count, format):
    text = (shared / name).read_text("utf-8")
    records = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    results = [read(record, **columns) for record in records]
    assert len(results) == count
    assert [result for result in results if isinstance(result, Refusal)] == []
    assert results[:300] == [read(record, format=format, **columns) for record in records[:300]]


@pytest.mark.shared
def test_real_tool_calls(shared):
    records = json.loads((shared / "glaive_toolcall_en_demo.json").read_text("utf-8"))
    said = Counter(turn["from"] for record in records for turn in record["conversations"])
    results = [read(record) for record in records]
    messages = [message for result in results for message in result.messages]
    assert sum(len(message.tool_calls) for message in messages) == said["function_call"] == 211
    assert sum(message.role == "tool" for message in messages) == said["observation"]
    assert all(isinstance(c["function"]["arguments"], dict) for m in messages for c in m.tool_calls)
    assert sum(bool(result.tools) for result in results) == sum(record["tools"] != "[]" for record in records)
