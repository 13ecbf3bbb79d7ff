"""JSON bytes -> records: one line at a time, or an array of any size in constant memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import orjson

from raysft.data.records import Refusal
from raysft.errors import DataError

MAX_RECORD_BYTES = 64 << 20
"""A longer record is refused: memory stays bounded whatever a file holds."""

MAX_DEPTH = 128
"""Levels of lists and objects in a record."""
_MAX_SCAN_DEPTH = 10_000  # deeper than any parser goes: a bomb
_MAX_GUESSES = 64
_SPACE = re.compile(rb"[ \t\r\n]+")
_BORDER = re.compile(rb"\}[ \t\r\n]*(?:,?[ \t\r\n]*\{|\])")
_MARK = re.compile(rb'["\[\]{}]')
_SCALAR = re.compile(rb"[^,\]\s]+")
_PLAIN = frozenset((str, int, bool, type(None)))
_AS_ZEROS, _LONG = bytes.maketrans(b"123456789", b"0" * 9), b"0" * 19
_BACKSLASH = ord("\\")


def parse_line(line: bytes) -> dict[str, Any] | Refusal:
    """One JSON object. What orjson is too strict for (NaN, lone surrogates) or rounds Python's own parser reads."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_exactly(line)
    return _as_record(line, value)


def _as_record(line: bytes, value: Any) -> dict[str, Any] | Refusal:
    """What orjson read of the bytes, where it read all of them."""
    if type(value) is not dict:
        return _parse_exactly(line) if may_be_rounded(line) else checked(value)
    if not _is_plain(value):
        if may_be_rounded(line):
            return _parse_exactly(line)
        if line.count(b"[") + line.count(b"{") > MAX_DEPTH and is_too_deep(value):  # counting is far quicker
            return checked(value)
    return _parse_exactly(line) if may_repeat_key(line, value) else value


def _parse_exactly(line: bytes) -> dict[str, Any] | Refusal:
    try:
        return checked(loads_exactly(line.decode()))
    except UnicodeDecodeError as error:
        return Refusal("invalid_utf8", f"{error}: {_start(line)}")
    except RepeatedKeyError as error:
        return Refusal("repeated_key", f"{error}: {_start(line)}")
    except (ValueError, RecursionError) as error:
        return Refusal("malformed_json", f"{error}: {_start(line)}")


def _is_plain(record: dict[str, Any]) -> bool:
    """Texts, whole numbers and flags, and lists of objects of such: nothing deep, and nothing that was rounded."""
    for value in record.values():
        kind = type(value)
        if kind is list:
            for item in value:
                if not (_PLAIN.issuperset(map(type, item.values())) if type(item) is dict else type(item) in _PLAIN):
                    return False
        elif kind not in _PLAIN:
            return False
    return True


class RepeatedKeyError(Exception):
    """An object has a key twice, with different values. Its text says which."""


def loads_exactly(text: str) -> Any:
    """As json.loads, but no key's value is lost. Raises RepeatedKeyError, ValueError, RecursionError."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if found[key] != value or type(found[key]) is not type(value):
                raise RepeatedKeyError(
                    f"the key {key!r} stands twice in one object, with different values: "
                    f"{repr(value)[:60]} and {repr(found[key])[:60]}"
                )
    return found


def may_repeat_key(text: bytes, value: Any) -> bool:
    """May an object of the JSON text have lost a key, as it stands in it twice (parsers keep the last)?

    A lost key takes its quotes along: written again, the value has fewer of them. (Where a text writes as many of its
    own quotes as `\\u0022` as were lost, nothing is seen.) value: what orjson read, not too deep.
    """
    return text.count(b'"') != orjson.dumps(value).count(b'"')


def may_be_rounded(text: bytes) -> bool:
    """Does it hold so many digits in a row that orjson may make a whole number a float (beyond 64 bits:
    below -2**63, which has 19 digits, or from 2**64)?
    """
    return _LONG in text.translate(_AS_ZEROS)


def too_large(num_bytes: int) -> Refusal:
    """The refusal of a record that is over the limit."""
    return Refusal("record_too_large", f"{num_bytes:,} bytes; at most {MAX_RECORD_BYTES:,}")


def checked(value: Any) -> dict[str, Any] | Refusal:
    """Is it an object, and one that recursive code can walk?"""
    if type(value) is not dict:
        return Refusal("not_an_object", f"got a {type(value).__name__}")
    if is_too_deep(value):
        return Refusal("nested_too_deep", f"over {MAX_DEPTH} levels")
    return value


def is_too_deep(value: Any) -> bool:
    """Is it nested deeper than recursive code should walk?"""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def stream_values(blocks: Iterable[bytes], location: str, *, array: bool) -> Iterator[dict[str, Any] | Refusal]:
    """The elements of an array, or values one after another, as they come.

    A bad value whose end can be told is a Refusal. Else nothing behind it can be told apart: a DataError.
    """
    cursor, num_records = _Cursor(blocks), 0
    try:
        if array and cursor.peek() == b"[":
            cursor.at += 1
        while (mark := cursor.peek()) != (b"]" if array else b""):
            if array and num_records:
                if mark != b",":
                    raise _MalformedError(f"expected `,` or `]`, found {cursor.here()}")
                cursor.at += 1
                mark = cursor.peek()
            if mark in (b"", b",", b"]"):
                raise _MalformedError(f"expected a value, found {cursor.here()}")
            yield cursor.value()
            num_records += 1
        if array:
            cursor.at += 1
            if cursor.peek():
                raise _MalformedError(f"expected the end, found {cursor.here()}")
    except _MalformedError as error:
        raise DataError(
            f"{location} is not valid JSON",
            got=f"after {num_records:,} records, in line {cursor.line:,} (byte {cursor.offset:,}): {error}",
            expected="an array of objects, or one object per line",
            fix="correct the file at that place, or write it as JSON Lines: there only the bad line is lost",
        ) from error


class _MalformedError(Exception):
    """Never leaves this module."""


class _Cursor:
    """A place in JSON text of which only a window is in memory; the window doubles while one value fills it."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._data, self._before, self._lines_before = b"", 0, 1
        self.at = 0

    @property
    def offset(self) -> int:
        """Bytes before this place."""
        return self._before + self.at

    @property
    def line(self) -> int:
        """Number of the line that is being read, from 1."""
        return self._lines_before + self._data.count(b"\n", 0, self.at)

    def here(self) -> str:
        """What stands here, for a message."""
        return repr(self._data[self.at : self.at + 40].decode(errors="replace")) if self.peek() else "the end"

    def peek(self) -> bytes:
        """The next byte that is no white space; nothing at the end."""
        while True:
            byte = self._data[self.at : self.at + 1]
            if byte and byte not in b" \t\r\n":
                return byte
            if space := _SPACE.match(self._data, self.at):
                self.at = space.end()
            if self.at < len(self._data):
                return self._data[self.at : self.at + 1]
            if not self._more():
                return b""

    def value(self) -> dict[str, Any] | Refusal:
        """The value that begins here; the cursor goes behind it."""
        while True:
            found = self._guess()
            if found is not None:
                return found
            end = _end(self._data, self.at)
            if end is not None:
                piece, self.at = self._data[self.at : end], end
                return parse_line(piece) if len(piece) <= MAX_RECORD_BYTES else too_large(len(piece))
            if len(self._data) - self.at > MAX_RECORD_BYTES:
                raise _MalformedError(f"a value of over {MAX_RECORD_BYTES:,} bytes: {self.here()}")
            if not self._more():
                raise _MalformedError(f"the file ends inside the value {self.here()}")

    def _guess(self) -> dict[str, Any] | Refusal | None:
        """Try the places that look like a border between objects: what orjson takes whole, is whole."""
        balance, counted, failures = 0, self.at, 0
        for border in islice(_BORDER.finditer(self._data, self.at), _MAX_GUESSES):
            end = border.start() + 1
            balance += self._data.count(b"{", counted, end) - self._data.count(b"}", counted, end)
            counted = end
            if balance == 0 and end - self.at <= MAX_RECORD_BYTES:
                piece = self._data[self.at : end]
                try:
                    value = orjson.loads(piece)
                except orjson.JSONDecodeError:
                    failures += 1
                    if failures == 2:
                        return None
                else:
                    self.at = end
                    return _as_record(piece, value)
        return None

    def _more(self) -> bool:
        """Drop what lies behind, read on. False: this was all."""
        self._lines_before, self._before = self.line, self.offset
        kept, self.at = self._data[self.at :], 0
        parts, size = [kept], 0
        while size <= len(kept) and (block := next(self._blocks, b"")):
            parts.append(block)
            size += len(block)
        self._data = b"".join(parts)
        return size > 0


def _end(data: bytes, start: int) -> int | None:
    """Where the value that begins at `start` ends, brackets in strings aside. None: not in these bytes."""
    if data[start] not in b'"[{':
        scalar = _SCALAR.match(data, start)
        assert scalar, "a value begins here"
        return scalar.end() if scalar.end() < len(data) else None
    depth, place = 0, start
    while mark := _MARK.search(data, place):
        place = mark.end()
        if mark[0] == b'"':
            place = _string_end(data, place)
            if place < 0:
                return None
        else:
            depth += 1 if mark[0] in b"[{" else -1
        if depth == 0:
            return place
        if depth > _MAX_SCAN_DEPTH:
            raise _MalformedError(f"brackets nested over {_MAX_SCAN_DEPTH:,} deep")
    return None


def _string_end(data: bytes, place: int) -> int:
    """Behind the quote that ends the string whose content begins at `place`; -1: it does not end here."""
    begin = place
    while (quote := data.find(b'"', place)) >= 0:
        first = quote
        while first > begin and data[first - 1] == _BACKSLASH:
            first -= 1
        place = quote + 1
        if (quote - first) % 2 == 0:
            return place
    return -1


def _start(line: bytes) -> str:
    return line[:80].decode(errors="replace").strip()
