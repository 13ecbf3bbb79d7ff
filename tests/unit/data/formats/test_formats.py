from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import EXAMPLES, A, U

from raysft.data.formats import Reading, read_record
from raysft.data.formats.fields import FIELDS
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


def test_unified_metadata():
    found = read({**EXAMPLES["unified"], "metadata": {"difficulty": 3, "tags": ["x"], "none": None}, "n": True})
    assert found.metadata == {"id": "7", "difficulty": 3, "n": True}
    assert turns(EXAMPLES["unified"])[0] == ("user", "q\ni")


def test_other_scalar_columns_describe_the_record():
    record = {"question": "q", "answer": "a", "gender": "f", "score": 0.5, "n": 2, "list": [1], "none": None}
    found = read(record, instruction="question", output="answer")
    assert found.metadata == {"gender": "f", "score": 0.5, "n": 2}
    assert read({**EXAMPLES["labelled"], "gender": "m"}).metadata == {"gender": "m"}


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
