"""Records of Anthropic's Messages API mean what the same talk means as OpenAI writes it."""

from __future__ import annotations

from typing import Any

import pytest

from raysft.data.formats import Reading, read_record
from raysft.data.records import Conversation, Message, Refusal

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def talk(*turns: Any, **beside: Any) -> dict[str, Any]:
    roles = ("user", "assistant") * len(turns)
    return {"messages": [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)], **beside}


def read(record: dict[str, Any], **reading: Any) -> Conversation | Refusal:
    found = read_record(record, Reading(**reading), id=1, source="s")
    return found if isinstance(found, Refusal) else found[0]


def test_it_is_the_same_talk() -> None:
    first = {"type": "thinking", "thinking": "Look it up.", "signature": "x"}
    anthropic = talk(
        "Oslo?",
        [first, part("Let me see."), USE, {**USE, "id": "toolu_2", "input": {}}],
        [
            RESULT,
            {**RESULT, "tool_use_id": "toolu_2", "content": [part("so"), part("ld")], "is_error": False},
            part("Well?"),
        ],
        "Rain.",
        system=[{**part("Be brief."), "cache_control": {"type": "ephemeral"}}],
        tools=[
            {"name": "weather", "description": "d", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}}
        ],
        stop_reason="end_turn",
    )
    calls = [
        {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"id": "toolu_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
    ]
    openai = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Oslo?"},
            {"role": "assistant", "content": "Let me see.", "reasoning": "Look it up.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "toolu_1", "name": "weather", "content": "rain"},
            {"role": "tool", "tool_call_id": "toolu_2", "name": "weather", "content": "sold"},
            {"role": "user", "content": "Well?"},
            {"role": "assistant", "content": "Rain."},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}],
    }
    one, other = read(anthropic), read(openai)
    assert isinstance(one, Conversation)
    assert isinstance(other, Conversation)
    assert (one.messages, one.tools, one.notes) == (other.messages, other.tools, ())


def test_a_call_without_a_text_and_a_result_without_a_content() -> None:
    found = read(talk("Oslo?", [USE], [{"type": "tool_result", "tool_use_id": "toolu_1"}], "Rain."))
    assert isinstance(found, Conversation)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}, "id": "toolu_1"}
    assert found.messages[1:3] == (
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "", tool_call_id="toolu_1", name="weather"),
    )


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (talk("q", [USE, part("behind")], [RESULT], "a"), "unsupported_content"),
        (talk("q", [USE, RESULT], "x", "a"), "unsupported_content"),
        (talk([USE], "a"), "unread:tool_calls"),
        (talk("q", [RESULT], "x", "a"), "unsupported_content"),
        (talk([RESULT], "a"), "role_order"),
        (talk("q", [USE], [part("before"), RESULT], "a"), "role_order"),
        (talk("q", [USE], [{**RESULT, "content": [{"type": "image", "source": {}}]}], "a"), "unsupported_content"),
        (talk("q", [{"type": "redacted_thinking", "data": "x"}, part("a")]), "unsupported_content"),
        (
            talk("q", [{"type": "server_tool_use", "id": "1", "name": "web", "input": {}}, part("a")]),
            "unsupported_content",
        ),
        (talk("q", [{**USE, "name": None}], [RESULT], "a"), "wrong_type"),
        (talk("q", [{**USE, "input": "Oslo"}], [RESULT], "a"), "bad_arguments"),
    ],
)
def test_what_would_mean_something_else_is_refused(record: dict[str, Any], reason: str) -> None:
    found = read(record)
    assert isinstance(found, Refusal), found
    assert found.reason == reason


def test_keys_of_blocks_and_turns_are_accounted_for() -> None:
    odd = {**RESULT, "is_error": True, "mood": "bad", "cache_control": {"type": "ephemeral"}}
    found = read(talk("q", [{**USE, "caller": {"type": "direct"}}], [odd], [{**part("a"), "citations": [1]}]))
    assert isinstance(found, Conversation)
    names = {note.name for note in found.notes}
    assert names == {
        *("messages[].content[].is_error", "messages[].content[].mood", "messages[].content[].citations"),
        "messages[].tool_calls[].caller",
    }
    flagged = talk("q", [USE], [RESULT], "a")
    flagged["messages"][1]["train"] = False
    found = read(flagged)
    assert isinstance(found, Conversation)
    assert [message.train for message in found.messages] == [None, False, None, None]
    flagged["messages"][2]["train"] = True
    found = read(flagged)
    assert isinstance(found, Refusal)
    assert found.reason == "trained_prompt"


def test_bedrocks_parts_have_no_type() -> None:
    found = read(talk([{"text": "q"}], [{"text": "a"}, {"text": "b"}], system=[{"text": "s"}]))
    assert isinstance(found, Conversation)
    assert [(m.role, m.content) for m in found.messages] == [("system", "s"), ("user", "q"), ("assistant", "ab")]
