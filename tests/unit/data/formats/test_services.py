"""Files for other companies' tuning services: the same talks as in OpenAI's messages."""

from __future__ import annotations

from typing import Any

import pytest

from raysft.data.formats import Reading, read_record
from raysft.data.records import Conversation, Message, Refusal

CALL = {"name": "rain", "args": {"city": "Oslo"}}
RAIN = {"name": "rain", "description": "Will it rain?", "parameters": {"type": "OBJECT", "properties": {}}}


def read(record: dict[str, Any], **reading: Any) -> Conversation | Refusal:
    found = read_record(record, Reading(**reading), id=1, source="s")
    return found if isinstance(found, Refusal) else found[0]


def content(role: str, *parts: Any) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": part} if isinstance(part, str) else part for part in parts]}


@pytest.mark.parametrize(
    ("preferred", "other"),
    [("preferred_output", "non_preferred_output"), ("preferred_completion", "non_preferred_completion")],
)
def test_openais_pairs(preferred: str, other: str) -> None:
    asked = [{"role": "user", "content": "Cold?"}]
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("Yes, 2 degrees.", "It is."))
    tool = {"type": "function", "function": {"name": "rain"}}
    record = {
        "input": {"messages": asked, "tools": [tool], "parallel_tool_calls": True},
        preferred: chosen,
        other: rejected,
    }
    found = read(record)
    assert isinstance(found, Conversation)
    assert found.messages == (Message("user", "Cold?"), Message("assistant", "Yes, 2 degrees."))
    assert [candidate.messages[0].content for candidate in found.candidates] == ["Yes, 2 degrees.", "It is."]
    assert found.tools == (tool,)


@pytest.mark.parametrize("system", ["systemInstruction", "system_instruction"])
def test_geminis_talks(system: str) -> None:
    record = {
        system: {"role": "system", "parts": [{"text": "Be "}, {"text": "brief."}]},
        "contents": [
            content("user", "Hi"),
            content("model", "Yo"),
            {"parts": [{"text": "So?"}]},
            content("model", "N", "o."),
        ],
    }
    found = read(record)
    assert isinstance(found, Conversation)
    assert [(message.role, message.content) for message in found.messages] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Yo"),
        ("user", "So?"),
        ("assistant", "No."),
    ]
    assert not found.notes


@pytest.mark.parametrize("style", ["camelCase", "under_scores"])
def test_geminis_tools(style: str) -> None:
    call, result, declared = {
        "camelCase": ("functionCall", "functionResponse", "functionDeclarations"),
        "under_scores": ("function_call", "function_response", "function_declarations"),
    }[style]
    thought = {"text": "Ask.", "thought": True}
    said = [{result: {"name": "rain", "response": {"mm": n, "of": "Tromsø"}}} for n in (1, 2)]
    record = {
        "contents": [
            content("user", "Rain?"),
            content("model", thought, "Wait.", {call: CALL}, {call: {**CALL, "args": {}}}),
            content("user", *said),
            content("model", "Yes."),
        ],
        "tools": [{declared: [RAIN]}],
    }
    found = read(record)
    assert isinstance(found, Conversation)
    calls = tuple({"type": "function", "function": {"name": "rain", "arguments": a}} for a in ({"city": "Oslo"}, {}))
    assert found.messages[1] == Message("assistant", "Wait.", tool_calls=calls, reasoning="Ask.")
    assert [(m.role, m.name, m.content) for m in found.messages[2:4]] == [
        ("tool", "rain", '{"mm": 1, "of": "Tromsø"}'),
        ("tool", "rain", '{"mm": 2, "of": "Tromsø"}'),
    ]
    assert found.tools == ({"type": "function", "function": RAIN},)


def test_geminis_pairs() -> None:
    record = {
        "contents": [content("user", "Fruit?")],
        "completions": [
            {"score": 0, "completion": content("model", "Pear.")},
            {"score": 1, "completion": content("model", "Apple!")},
        ],
    }
    found = read(record)
    assert isinstance(found, Conversation)
    assert {candidate.messages[0].content: candidate.score for candidate in found.candidates} == {
        "Pear.": 0.0,
        "Apple!": 1.0,
    }
    assert found.messages[-1].content == "Apple!"


MEDIA, RESULT = {"fileData": {"fileUri": "gs://a"}}, {"functionResponse": {"name": "f", "response": {}}}
HALF = {"input": {"messages": [{"role": "user", "content": "Hi"}]}, "preferred_output": [content("assistant", "a")]}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"contents": [content("user", MEDIA), content("model", "A cat.")]}, "unsupported_content"),
        ({"contents": [content("model", {"functionCall": CALL}, "and")]}, "unsupported_content"),
        ({"contents": [content("user", RESULT, "and")]}, "unsupported_content"),
        ({"contents": [content("user", {"functionResponse": {"name": "f"}})]}, "wrong_type"),
        ({"contents": [content("user", "Hi")]}, "no_assistant_turn"),
        ({"contents": [content("user", "Hi"), content("narrator", "Yo")]}, "unknown_role"),
        ({"contents": ["Hi", "Yo"]}, "unknown_format"),
        ({"contents": []}, "unknown_format"),
        (HALF, "unknown_format"),
        ({**HALF, "input": "Hi", "non_preferred_output": "b"}, "unknown_format"),
        ({**HALF, "messages": "x", "non_preferred_output": "b"}, "unknown_format"),
    ],
)
def test_what_is_not_so_is_refused(record: dict[str, Any], reason: str) -> None:
    found = read(record)
    assert isinstance(found, Refusal)
    assert found.reason == reason, found
