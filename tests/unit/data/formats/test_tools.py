"""Tools and calls in the forms of OpenAI, old and new, and of others."""

from __future__ import annotations

import json

import pytest
from records import A, U, kept, refused

from raysft.data.records import Message


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


def test_arguments_in_a_text_keep_their_digits() -> None:
    number = 123456789012345678901234
    for arguments in ({"n": number}, json.dumps({"n": number})):
        turns = [U, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}]
        assert kept({"messages": turns}).messages[1].tool_calls[0]["function"]["arguments"] == {"n": number}
