"""What is told of the keys that nothing reads, and which of them refuse a record."""

from __future__ import annotations

from typing import Any

import pytest
from records import TURNS, A, U, kept, refused, said

from raysft.data.formats import Reading, read_record
from raysft.data.records import Refusal


def notes(record: dict[str, Any], **reading: Any) -> list[tuple[str, str, str]]:
    found = read_record(record, Reading(**reading), id=1, source="s")
    assert not isinstance(found, Refusal), found
    return [(note.kind, note.name, note.example) for note in found[0].notes]


def test_keys_at_every_level_are_told_with_their_place() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {}, "why": 2}, "cost": 3}
    part = {"type": "text", "text": "a", "tone": "dry"}
    turns = [
        {"role": "user", "content": "q", "mood": "good"},
        {"role": "assistant", "content": [part], "tool_calls": [call]},
    ]
    assert sorted(notes({"messages": turns, "extra": {"a": [1]}})) == [
        ("unread", "extra", "{'a': [1]}"),
        ("unread", "messages[].content[].tone", "'dry'"),
        ("unread", "messages[].mood", "'good'"),
        ("unread", "messages[].tool_calls[].cost", "3"),
        ("unread", "messages[].tool_calls[].function.why", "2"),
    ]


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_a_key_that_holds_nothing_is_not_told(value: object) -> None:
    assert notes({"messages": TURNS, "extra": value, "system_prompt": value, "tools": value}) == []


def test_what_is_said_again_is_not_lost() -> None:
    assert notes({"messages": TURNS, "prompt": "q", "final": " a ", "turns": TURNS}) == []
    system = {"role": "system", "content": "reasoning language: French\n\nYou are a helpful teacher of maths."}
    assert notes({"messages": [system, *TURNS], "developer": "You are a helpful teacher of maths."}) == []
    assert notes({"messages": TURNS, "prompt": "other"})[0] == ("unread", "prompt", "'other'")


def test_a_key_may_be_left_out_by_name_or_by_place() -> None:
    record = {"messages": [*TURNS[:1], {**TURNS[1], "channel": "commentary"}], "system_prompt": "s", "critique": "c"}
    for names in (("channel", "system_prompt", "critique"), ("messages[].channel", "system_prompt", "critique")):
        told = notes(record, ignored=frozenset(names))
        assert sorted(name for _, name, _ in told) == ["critique", "messages[].channel", "system_prompt"]
        assert {kind for kind, _, _ in told} == {"ignored"}
    found = read_record(record, Reading(), id=1, source="s")
    assert isinstance(found, Refusal)
    assert found.reason == "unread:channel"
    inside = read_record({"messages": [{**TURNS[0], "tools": [{"name": "f"}]}, TURNS[1]]}, Reading(), id=1, source="")
    assert isinstance(inside, Refusal)
    assert "move it beside the turns, or data.ignore_columns: [tools]" in inside.detail


def test_unread_keys_may_refuse_the_record() -> None:
    found = read_record({"messages": TURNS, "mood": 1}, Reading(on_unread="refuse"), id=1, source="s")
    assert isinstance(found, Refusal)
    assert (found.reason, "`mood`" in found.detail) == ("unread_key", True)
    assert notes({"messages": TURNS, "prompt_id": 1}, on_unread="refuse") == []


def test_columns_that_the_mixture_reads_are_read() -> None:
    assert notes({"messages": TURNS, "weight": 2.0}, described=frozenset(("weight",))) == []
    found = read_record({"messages": TURNS, "weight": 2.0}, Reading(), id=1, source="s")
    assert isinstance(found, Refusal)


def test_a_guess_is_told_with_the_way_to_overrule_it() -> None:
    told = notes({"messages": TURNS, "instruction": "x", "output": "y"})
    assert told[-1] == (
        "guess",
        "read as messages, though `instruction`, `output` would make it alpaca; data.format decides",
        "",
    )
    assert [name for _, name, _ in notes({"messages": TURNS, "instruction": "x"}, format="messages")] == [
        "instruction"
    ]


def test_names_are_fit_to_be_shown() -> None:
    assert notes({"messages": TURNS, "\x1b[31mred": 1})[0][1] == "\\x1b[31mred"


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
