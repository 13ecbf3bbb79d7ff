"""What is told of the keys that nothing reads, and which of them refuse a record."""

from __future__ import annotations

from typing import Any

import pytest

from raysft.data.formats import Reading, read_record
from raysft.data.formats.names import is_harmless, meaning_of
from raysft.data.notes import NoteCounts, count_notes, merge_notes, tell_notes, unused
from raysft.data.records import Note, Refusal

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


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


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "prompt_id",
        "source",
        "created_at",
        "num_turns",
        "score_chosen",
        "Unnamed: 0",
        "__index_level_0__",
        "uuid",
    ],
)
def test_harmless_names(name: str) -> None:
    assert is_harmless(name)
    assert meaning_of(name) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("reasoning", "reasoning"), ("Complex_CoT", "reasoning"), ("thinkingTrace", "reasoning")),
        *(("SystemPrompt", "system prompt"), ("available_tools", "tools"), ("loss_mask", "loss flag")),
        *(
            ("retrieved_documents", "documents"),
            ("model_responses", "several answers"),
            ("mood", None),
            ("思考", None),
        ),
    ],
)
def test_names_that_carry_meaning(name: str, kind: str | None) -> None:
    assert meaning_of(name) == kind
    assert not is_harmless(name) or kind


def test_notes_are_counted_merged_and_told() -> None:
    counts: NoteCounts = {}
    for number in range(3):
        count_notes(
            counts, [Note("unread", "x", f"v{number}"), Note("unread", "x", f"w{number}"), Note("absent", "a: b")]
        )
    other: NoteCounts = {}
    count_notes(other, [Note("ignored", "messages[].y"), Note("unread", "x", "late")])
    merge_notes(counts, other)
    assert list(tell_notes(counts, 8)) == [
        "nothing reads `x` (4 of 8 records, 50.0%), e.g. v0; if that is right: data.ignore_columns",
        "left out by data.ignore_columns: `messages[].y` (1 of 8 records, 12.5%)",
    ]
    assert list(tell_notes({"absent": counts["absent"]}, 3)) == [
        "data.columns maps a: b, a column that no record has"
    ]
    assert unused(["y", "z"], counts) == ["z"]


def test_any_number_of_names_takes_little_room() -> None:
    counts: NoteCounts = {}
    for number in range(1000):
        count_notes(counts, [Note("unread", f"k{number}", "v")])
    assert len(counts["unread"]) == 201
    assert sum(found["count"] for found in counts["unread"].values()) == 1000
    assert len(list(tell_notes(counts, 1000))) == 21


def test_names_are_fit_to_be_shown() -> None:
    assert notes({"messages": TURNS, "\x1b[31mred": 1})[0][1] == "\\x1b[31mred"
