"""data.columns: a file's own names for the columns that a format reads. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from raysft.data.formats.fields import FIELDS, TURNS, names_of
from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import Record, RefusedError, decoded, is_empty
from raysft.data.records import Note
from raysft.errors import DataError

_WITH_INNER = (*TURNS, "prompt", "completion", "chosen", "rejected")
"""Columns whose turns' keys data.columns maps as well."""
_INNER = frozenset(_WITH_INNER)


def check_columns(columns: Mapping[str, str], format: str = "auto") -> None:
    """Raise DataError when `data.columns` maps a name that the format does not have."""
    chosen = FIELDS if format == "auto" else (format,)
    known = sorted({name for each in chosen for name in names_of(each)})
    for name in columns:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise DataError(
                f"data.columns maps {name!r}, which no record format has"
                if format == "auto"
                else f"data.columns maps {name!r}, which the format {format} does not have",
                got=f"{name}: {columns[name]}",
                expected=f"format's name -> file's name; names: {', '.join(known)}",
                fix=f"did you mean {near[0]!r}?" if near else "map one of these names to your file's column",
            )


def rename(record: Record, columns: Mapping[str, str]) -> dict[str, Any]:
    """The record, and the turns in it, under the format's names; a mapped file column gives up its own name."""
    renamed = _renamed(record, columns)
    if _INNER.isdisjoint(renamed):
        return renamed
    for column in _WITH_INNER:
        turns = renamed.get(column)
        if type(turns) is str:
            turns = _decoded(turns)
        if isinstance(turns, list):
            renamed[column] = [_renamed(turn, columns) if isinstance(turn, dict) else turn for turn in turns]
        elif isinstance(turns, dict):
            renamed[column] = _renamed(turns, columns)
    return renamed


def _decoded(text: str) -> Any:
    """The text itself where it cannot be decoded: the reader of the column refuses it then."""
    try:
        return decoded(text)
    except RefusedError:
        return text


def _renamed(record: Record, columns: Mapping[str, str]) -> dict[str, Any]:
    renamed = dict(record)
    for column in columns.values():
        renamed.pop(column, None)
    for name, column in columns.items():
        if column in record:
            renamed[name] = record[column]
    return renamed


def account_for_columns(account: KeyLedger, original: Record, format: str) -> None:
    """What data.columns maps has to be read by the format, where the record has it."""
    columns = account.reading.columns
    for name, column in columns.items():
        is_inner = name not in FIELDS[format] and name in names_of(format) and _in_turns(account.record, name)
        if column not in original:
            if not is_inner:
                account.notes.append(Note("absent", f"{name}: {column}"))
            continue
        if is_inner:
            account.unread("", column, original[column], inside=False)
        elif name not in account.used and not is_empty(original[column]):
            raise RefusedError(
                "unused_mapping",
                f"data.columns maps `{column}` to {name!r}, which this record of the format {format} does not use; "
                "correct the mapping, name data.format, or give each entry of data.train its own columns",
            )
        if name in original and name not in columns.values():
            account.unread("", name, original[name], inside=False)


def _in_turns(record: Record, name: str) -> bool:
    found = (turn for column in _WITH_INNER if isinstance(turns := record.get(column), list) for turn in turns)
    return any(isinstance(turn, dict) and name in turn for turn in found)
