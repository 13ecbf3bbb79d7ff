"""Values that go from one process to the other."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from raysft.sandbox.values import decode, encode

SCALARS = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text()
SCALARS |= some.binary() | some.complex_numbers(allow_nan=False)
VALUES = some.recursive(
    SCALARS,
    lambda inner: (
        some.lists(inner)
        | some.tuples(inner, inner)
        | some.dictionaries(some.text() | some.integers(), inner)
        | some.frozensets(some.text() | some.integers())
        | some.sets(some.integers())
    ),
    max_leaves=8,
)


def there_and_back(value: Any) -> Any:
    def never(one: Any) -> int:
        raise AssertionError(f"no plain data: {one!r}")

    return decode(json.loads(json.dumps(encode(value, never))), lambda number: f"object {number}")


@settings(max_examples=60)
@given(VALUES)
def test_plain_data_is_what_it_was(value: Any) -> None:
    found = there_and_back(value)
    assert (type(found), found) == (type(value), value)


def test_what_is_like_plain_data_becomes_it() -> None:
    class Always(list[int]):
        def __eq__(self, other: object) -> bool:
            return True

    colour = IntEnum("colour", ["RED", "BLUE"])
    for value, plain in (
        (Always([1]), [1]),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (colour.BLUE, 2),
    ):
        found = there_and_back(value)
        assert (type(found), found) == (type(plain), plain)
    assert math.isnan(there_and_back(math.nan))
    assert there_and_back(-math.inf) == -math.inf


def test_everything_else_is_a_number_that_stands_for_it() -> None:
    kept: list[Any] = []
    sent = encode([1, print], lambda one: kept.append(one) or 7)
    assert (kept, decode(sent, lambda number: number * 6)) == ([print], [1, 42])


@pytest.mark.parametrize("data", [{}, {"list": [1]}, {"a": 1, "b": 2}, {"complex": [1]}, {"bytes": "xy"}])
def test_what_is_no_value_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"kind|values|hexadecimal|unpack"):
        decode(data, lambda number: number)
