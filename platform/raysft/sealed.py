"""Small records that carry their own checksum, and readers that survive whatever has become of them.

A file that is torn, emptied, flipped, of another kind or unreadable is named in a warning, once, and counts as
absent: what a run needs follows from its commits. Records without a checksum were written before there were any.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from raysft import lines, storage

logger = logging.getLogger(__name__)

Shape = Mapping[str, type | tuple[type, ...]]
"""Fields that a record must have, with their types."""

NUMBER = (int, float)
_SUM = "sha256"


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the checksum of all its other fields under `sha256`."""
    return {**record, _SUM: checksum(record)}


def checksum(record: Mapping[str, Any]) -> str:
    """sha256 of a record's canonical JSON, without its own sum."""
    return hashlib.sha256(json.dumps(content(record), sort_keys=True).encode()).hexdigest()


def content(record: Mapping[str, Any]) -> dict[str, Any]:
    """All of a record but its sum."""
    return {key: value for key, value in record.items() if key != _SUM}


def is_intact(record: Any) -> bool:
    """Is it a record that has its own checksum, or was written before there were any?"""
    return isinstance(record, dict) and record.get(_SUM, "") in ("", checksum(record))


def write(location: str, record: Mapping[str, Any]) -> None:
    """Write a sealed record atomically. Raises StorageError."""
    storage.write_json(location, sealed(record))


def create(location: str, record: Mapping[str, Any]) -> bool:
    """Create a sealed record only if nothing is there. True: this caller made it. Raises StorageError."""
    return storage.create_exclusive(location, sealed(record))


def read(location: str, shape: Shape) -> dict[str, Any] | None:
    """The record without its sum; None when it is absent, or cannot be used (which is warned of).

    Raises OSError when the storage itself is away.
    """
    data = _bytes(location)
    if data is None:
        return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return passed_over(location, "it is no JSON: torn, or of something else")
    problem = problem_of(record, shape)
    if problem is None and not is_intact(record):
        problem = "it does not have its own checksum"
    if problem:
        return passed_over(location, problem)
    return content(record)


def read_lines(location: str, shapes: Mapping[str, Shape]) -> Iterator[dict[str, Any]]:
    """Usable lines of a file of JSON lines, in order; those that cannot be used are warned of. [] when it is absent.

    shapes: {field that tells a kind of line apart: what such a line must have}; others are passed over.
    Raises OSError when the storage itself is away.
    """
    data = _bytes(location)
    if data is None:
        return
    complete = data.rpartition(b"\n")[0]  # a writer may have died in the last line
    for number, line in enumerate(complete.split(b"\n"), 1):
        if not line:
            continue
        value, problem = _parsed(line)
        if problem is None:
            shape = _shape_of(value, shapes)
            problem = "it is a line of something else" if shape is None else problem_of(value, shape)
        if problem is None:
            yield value
        else:
            passed_over(f"{location}:{number}", problem)


def _shape_of(value: Any, shapes: Mapping[str, Shape]) -> Shape | None:
    """That of the first field which a line has. A loop: it runs for each of a hundred thousand lines."""
    if isinstance(value, dict):
        for field, shape in shapes.items():
            if field in value:
                return shape
    return None


def _bytes(location: str) -> bytes | None:
    """A file's content; None when it is absent, or (warned of) something else than a file that may be read."""
    try:
        return storage.read_bytes(location)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        is_there = storage.is_link(location) or storage.is_directory(location) or isinstance(error, PermissionError)
        if not is_there:  # the storage itself is away
            raise
        return passed_over(location, "it is no file that can be read")


def _parsed(line: bytes) -> tuple[Any, str | None]:
    """(value, None), or (None, what is wrong) of a line with or without its checksum."""
    if not lines.is_whole(line):
        return None, "it does not have its checksum"
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:  # it knows no NaN
        try:
            value = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            return None, "it is no JSON: torn, or of something else"
    if isinstance(value, dict):
        value.pop(lines.SUM, None)
    return value, None


def names(directory: str, pattern: str) -> list[str]:
    """Sorted names under a directory that the regular expression matches whole: no temporary, no stray file."""
    return [name for name in storage.list_names(directory) if re.fullmatch(pattern, name)]


def problem_of(record: Any, shape: Shape) -> str | None:
    """What is wrong with a record; None: nothing."""
    if not isinstance(record, dict):
        return "it is no record"
    try:
        for name, kind in shape.items():
            found = type(record[name])  # of JSON: no other class is one of these, and True is no number
            if found is not kind and (isinstance(kind, type) or found not in kind):
                return f"its field {name!r} is {record[name]!r:.60}"
    except KeyError:
        return f"it has no field {name!r}"
    return None


@functools.lru_cache(maxsize=1000)
def passed_over(location: str, problem: str) -> None:
    """Warn, once: some readers look twice a second."""
    logger.warning("%s is passed over: %s", location, problem)
