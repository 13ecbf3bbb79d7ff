from __future__ import annotations

import json

import pytest

from raysft.data.formats import check_columns, detect_format, to_conversation
from raysft.data.records import Conversation, Refusal
from raysft.errors import DataError


def read(record, format="auto", **columns):
    return to_conversation(record, id=7, source="f", format=format, columns=columns)


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
            {"role": "assistant", "content": "b", "train": True},
        ]
    }
    found = read(record)
    assert turns(record)[:2] == [("system", "s"), ("user", "q1 q2")]
    assert found.messages[2].tool_calls[0]["id"] == "c1"
    assert found.messages[2].tool_calls[0]["function"]["arguments"] == {"x": 1}
    assert found.messages[3].tool_call_id == "c1"
    assert [message.train for message in found.messages] == [None, None, None, None, False, True]


def test_columns_are_mapped_and_unmapped_ones_ignored():
    record = {"question": "q", "answer": "a", "input": "not this", "n": 1}
    assert turns(record, instruction="question", output="answer", input="missing")[0] == ("user", "q\nnot this")
    assert turns({"instruction": "old", "q": "new", "output": "a"}, instruction="q")[0] == ("user", "new")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "x"}, "unknown_format"),
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
    detail = read({"prompt": "q", "completion": "a"}).detail
    assert "completion, prompt" in detail
    assert "instruction" in detail
    assert "data.columns" in detail
    assert "output" in read({"instruction": "q"}, format="alpaca").detail


def test_a_named_format_is_not_detected():
    record = {"instruction": "q", "output": "a", "messages": [{"role": "assistant", "content": "m"}]}
    assert detect_format(record) == "messages"
    assert turns(record, format="alpaca") == [("user", "q"), ("assistant", "a")]


def test_unknown_columns_name_the_nearest():
    with pytest.raises(DataError, match="did you mean 'instruction'"):
        check_columns({"instrution": "q"})
    with pytest.raises(DataError, match="'history'"):
        check_columns({"history": "q"}, "messages")
    check_columns({"instruction": "question", "output": "answer"})


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "columns", "refused"),
    [
        ("alpaca_en_demo.json", {}, 0),
        ("alpaca_zh_demo.json", {}, 0),
        ("glaive_toolcall_en_demo.json", {}, 0),
        ("gsm8k_train.jsonl", {"instruction": "question", "output": "answer"}, 0),
        ("c4_demo.jsonl", {}, 300),
    ],
)
def test_real_files(shared, name, columns, refused):
    text = (shared / name).read_text("utf-8")
    records = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    results = [read(record, **columns) for record in records]
    assert sum(isinstance(result, Refusal) for result in results) == refused
