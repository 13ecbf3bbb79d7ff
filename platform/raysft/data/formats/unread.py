"""The account of one record: which of its keys were read, and what becomes of those that were not.

Every key of a record, turn, part and call is one of these:
    read        a reader asked for it, data.mixture names it, or it says again what the conversation says
    empty       null, an empty text, list or object
    ignored     named in data.ignore_columns; counted
    harmless    an id, a source, a time, a score...: it describes the record
    meaning     it would change what is trained (reasoning, a system prompt, tools...): the record is refused
    unread      anything else: counted, or refused with data.on_unread: refuse
Which names are harmless and which carry meaning is names.py. What the format's columns mean is readers.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raysft.data.formats.names import is_harmless, leaves_out, meaning_of
from raysft.data.formats.values import Record, RefusedError, is_empty, printable_key, short_value
from raysft.data.records import Note

_FIX = {
    "reasoning": "put it into the answer's turn, or map it: data.columns: {{reasoning: {name}}}",
    "system prompt": "map it: data.columns: {{system: {name}}}",
    "tools": "map it: data.columns: {{tools: {name}}}",
    "documents": "put the text into the question, or map it: data.columns: {{input: {name}}}",
    "several answers": "choose the answer, or name the format in data.format",
}


@dataclass(frozen=True)
class Reading:
    """How the records of a source are read: fields of the recipe's data section."""

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    ignored: frozenset[str] = frozenset()
    """data.ignore_columns: keys by name, or by place as `messages[].x`."""
    described: frozenset[str] = frozenset()
    """Columns that data.mixture or the objective reads from a record's metadata."""
    on_unread: Literal["warn", "refuse"] = "warn"
    several_answers: Literal["refuse", "first", "all"] = "refuse"
    judged: bool = False
    """Are answers read that the record says are not wanted?"""
    labelled: bool = False
    """Is the label what is learnt of a text, no answer to be written?"""
    matched: bool = False
    """Are texts read that match, of which none answers another?"""


_LONG = 24
"""Characters from which a text that stands inside another says the same again; a shorter one may by chance."""
_MAX_OUTER_SPACE = 64
_ROLES = frozenset(("user", "assistant", "system", "human", "gpt", "tool", "text", "function"))


class KeyLedger:
    """A record while it is read. Readers ask it for columns, and tell it of keys inside of them."""

    __slots__ = ("notes", "reading", "record", "used")

    def __init__(self, record: Record, reading: Reading) -> None:
        self.record, self.reading = record, reading
        self.used: set[str] = set()
        self.notes: list[Note] = []

    def get(self, name: str) -> Any:
        """The column's value, None where there is none; it counts as read."""
        self.used.add(name)
        return self.record.get(name)

    def first(self, names: Collection[str]) -> str | None:
        """The first of these columns that holds something, else the first that is not null; read with `get`."""
        record = self.record
        filled = next((name for name in names if not is_empty(record.get(name))), None)
        return filled or next((name for name in names if record.get(name) is not None), None)

    def without_ignored(self, found: Record, place: str = "") -> dict[str, Any]:
        """The object without the keys of data.ignore_columns."""
        ignored = self.reading.ignored
        gone = [key for key in found if key in ignored or f"{place}{key}" in ignored]
        self.notes += [Note("ignored", printable_key(f"{place}{key}")) for key in gone if not is_empty(found[key])]
        return {key: value for key, value in found.items() if key not in gone}

    def unread(self, place: str, key: str, value: Any, *, inside: bool = True) -> None:
        """Account for a key that no reader asked for. Raises RefusedError. `inside`: of a turn, a part, a call."""
        if is_empty(value):
            return
        name = f"{place}{key}"
        if key in self.reading.ignored or name in self.reading.ignored:
            self.notes.append(Note("ignored", printable_key(name)))
            return
        name = printable_key(name)
        kind = meaning_of(key, inside=inside)
        if kind and not inside and _is_plain_number(key, value):
            kind = None
        if inside and leaves_out(key, value):
            kind = "loss flag"
        if kind:
            fix = "move it beside the turns" if inside and kind in ("tools", "documents") else ""
            fix = fix if inside else _FIX.get(kind, "").format(name=key)
            raise RefusedError(
                f"unread:{printable_key(key)}",
                f"`{name}` ({kind}) changes what is trained, and this format does not read it: {short_value(value)}; "
                f"{fix + ', or' if fix else 'leave it out with'} data.ignore_columns: [{key}]",
            )
        if is_harmless(key):
            return
        if self.reading.on_unread == "refuse":
            raise RefusedError("unread_key", f"nothing reads `{name}`: {short_value(value)}; see data.ignore_columns")
        self.notes.append(Note("unread", name, short_value(value)))


def _is_plain_number(key: str, value: Any) -> bool:
    """A measured value beside the turns under a flag's name, like the loss of a model on the record?"""
    return key in ("loss", "training", "train") and not isinstance(value, bool | list | dict)


def says_again(value: Any, texts: Sequence[str]) -> bool:
    """Is every text of the value one of these or, in turns, a role, and is there nothing else in it?"""
    if isinstance(value, str):
        return value not in _ROLES and _is_said(value.strip(), texts)
    found = list(leaves(value))
    return bool(found) and all(isinstance(leaf, str) and _is_said(leaf.strip(), texts) for leaf in found)


def _is_said(text: str, texts: Sequence[str]) -> bool:
    if text in _ROLES:
        return True
    if len(text) >= _LONG:
        return any(text in said for said in texts)
    return any(text == said.strip() for said in texts if len(said) <= len(text) + _MAX_OUTER_SPACE)


def leaves(value: Any) -> Iterator[Any]:
    """What lists and objects hold at their ends, but for what is empty."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner)
    elif not is_empty(value):
        yield value
