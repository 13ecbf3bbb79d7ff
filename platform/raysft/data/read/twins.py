"""Files of one folder and name under two endings (`a.jsonl`, `a.jsonl.gz`, `a.parquet`): the same data twice?

Someone packed or converted a file and left the old one: read together, every record would be trained twice. Their
records decide, not their names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise, zip_longest
from typing import Any

from raysft.data.read.readers import byte_ranges, read_range
from raysft.data.read.remote import compression, without_query
from raysft.data.records import Refusal
from raysft.errors import DataError, redacted

logger = logging.getLogger(__name__)

_COMPARED = 100
"""Records that are compared: two files that begin with as many equal ones are one file."""


def check_twins(files: Iterable[tuple[str, str, int]]) -> None:
    """Raise DataError where two of the files hold the same records, and tell those that only have one name.

    files: (location, kind, number of bytes) of each.
    """
    by_name: dict[str, list[tuple[str, str, int]]] = {}
    for location, kind, num_bytes in files:
        by_name.setdefault(_without_ending(location), []).append((location, kind, num_bytes))
    for same in by_name.values():
        for one, other in pairwise(same):
            first, second = redacted(one[0]), redacted(other[0]).rpartition("/")[2]
            if _begin_alike(one, other):
                raise DataError(
                    "two files hold the same records: every one would be trained twice",
                    got=f"{first} and {second}",
                    expected="one of them",
                    fix="delete one, or name the other in data.train, by its path or by a pattern such as `*.jsonl`; "
                    "a source with a `name` reads its files again",
                )
            logger.warning("%s and %s: one name, other records; both are read", first, second)


def _without_ending(location: str) -> str:
    plain = without_query(location)
    return plain[: len(plain) - len(compression(plain))].rpartition(".")[0]


def _begin_alike(one: tuple[str, str, int], other: tuple[str, str, int]) -> bool:
    """Are their first records the same, and as many?"""
    pairs = list(zip_longest(_first_records(*one), _first_records(*other)))
    return bool(pairs) and all(a is not None and a == b for a, b in pairs)


def _first_records(location: str, kind: str, num_bytes: int) -> Iterator[Any]:
    values = (
        v
        for start, stop in byte_ranges(location, kind, num_bytes, 1 << 40)
        for v in _values(location, kind, start, stop)
    )
    return islice((_comparable(value) for value in values), _COMPARED)


def _values(location: str, kind: str, start: int, stop: int) -> Iterator[Any]:
    return (value for _, value in read_range(location, kind, start, stop))


def _comparable(value: Any) -> Any:
    """A value as every kind of file holds it: numbers as text, as in CSV; nothing empty, as Parquet has it."""
    if isinstance(value, dict):
        return {key: _comparable(inner) for key, inner in value.items() if inner not in (None, "", [], {})}
    if isinstance(value, list):
        return [_comparable(inner) for inner in value]
    return value if isinstance(value, Refusal) else str(value)
