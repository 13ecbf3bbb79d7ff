"""Values however a file writes them: lists as text, objects of lists, repeated keys."""

from __future__ import annotations

import json

import pytest
from records import QA, TURNS, A, U, kept, refused, said


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
