"""Notes of records, counted by kind and name, and told: what was not read, left out, guessed. Pure.

Counts are nested tables with text keys, so they travel as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from raysft.data.records import Note

NoteCounts = dict[str, dict[str, dict[str, Any]]]
"""{kind: {name: {count, example}}}; the example is the first one's."""

_MAX_NAMES = 200
_OTHERS = "(other names)"
_MAX_TOLD = 20
_WORDS = {
    "unread": "nothing reads {name} ({share}), e.g. {example}; if that is right: data.ignore_columns",
    "ignored": "left out by data.ignore_columns: {name} ({share})",
    "guess": "{name} ({share})",
}


def count_notes(counts: NoteCounts, notes: Iterable[Note]) -> None:
    """Add the notes of one record; a name that it has several times counts once."""
    seen: set[tuple[str, str]] = set()
    for note in notes:
        if (note.kind, note.name) not in seen:
            seen.add((note.kind, note.name))
            _add(counts, note.kind, note.name, 1, note.example)


def merge_notes(counts: NoteCounts, other: NoteCounts) -> None:
    """Add the counts of other records."""
    for kind, names in other.items():
        for name, found in names.items():
            _add(counts, kind, name, found["count"], found["example"])


def tell_notes(counts: NoteCounts, num_records: int) -> Iterator[str]:
    """A line for each name, most frequent first. An absent column is told where no record has it."""
    for kind, words in _WORDS.items():
        names = sorted(counts.get(kind, {}).items(), key=lambda item: (-item[1]["count"], item[0]))
        for name, found in names[:_MAX_TOLD]:
            share = f"{found['count']:,} of {num_records:,} records, {found['count'] / max(num_records, 1):.1%}"
            quoted = name if kind == "guess" else f"`{name}`"
            yield words.format(name=quoted, share=share, example=found["example"])
        if len(names) > _MAX_TOLD:
            yield f"{kind}: {len(names) - _MAX_TOLD:,} other names"
    for name, found in sorted(counts.get("absent", {}).items()):
        if found["count"] >= num_records:
            yield f"data.columns maps {name}, a column that no record has"


def _add(counts: NoteCounts, kind: str, name: str, number: int, example: str) -> None:
    names = counts.setdefault(kind, {})
    if name not in names and len(names) >= _MAX_NAMES:
        name, example = _OTHERS, ""
    found = names.setdefault(name, {"count": 0, "example": example})
    found["count"] += number


def unused(wanted: Iterable[str], counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of data.ignore_columns that no record has."""
    seen = {part for name in counts.get("ignored", {}) for part in (name, name.rpartition(".")[2])}
    return sorted(set(wanted) - seen)
