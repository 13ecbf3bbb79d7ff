"""Notes are counted by name, merged and told."""

from __future__ import annotations

from raysft.data.notes import NoteCounts, count_notes, merge_notes, tell_notes, unused
from raysft.data.records import Note


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
