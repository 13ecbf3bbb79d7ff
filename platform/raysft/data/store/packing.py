"""Packing atoms into rows of at most `capacity` tokens. Pure numpy; knows lengths, not tokens.

A row begins with the longest atom left and takes the longest that fits, but as soon as one or two atoms fill
the rest exactly, these (the pair of most equal lengths) close the row. On GSM8K this gives the lower bound of
685 rows of 2,048 where best-fit decreasing gives 690.

It works on the histogram of lengths; which atom of a length goes where is settled at the end, in the atoms' order.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from raysft.errors import DataError

Indices = NDArray[np.int64]


def pack(lengths: NDArray[np.integer], capacity: int) -> list[Indices]:
    """Rows as arrays of atom indices; every atom once, never split. The same lengths give the same rows."""
    if not len(lengths):
        return []
    if (longest := int(lengths.max())) > capacity:
        raise DataError(
            "an atom is longer than a row",
            got=f"{longest} tokens",
            expected=f"at most {capacity}",
            fix="raise data.max_tokens, or let data.over_long drop or cut such samples",
        )
    placed, row_ends = _fill(lengths, capacity)
    atoms = np.empty(len(lengths), dtype=np.int64)
    atoms[np.argsort(placed, kind="stable")] = np.argsort(lengths, kind="stable")
    return np.split(atoms, row_ends[:-1])


def _fill(lengths: NDArray[np.integer], capacity: int) -> tuple[NDArray[np.int64], list[int]]:
    """(the lengths in the order in which they are placed, the ends of the rows in it).

    `left` are the lengths of which an atom is left. As bits of two numbers, of which `mirror` counts down from
    `capacity`, they tell by one shift and one AND all pairs of a given sum.
    """
    values, how_many = (column.tolist() for column in np.unique(lengths, return_counts=True))
    left, count = values, dict(zip(values, how_many, strict=True))
    bits = sum(1 << length for length in left)
    mirror = sum(1 << (capacity - length) for length in left)
    placed: list[int] = []
    row_ends: list[int] = []
    while left:
        space = capacity
        closing: tuple[int, ...] = (left[-1],)
        while closing:
            for length in closing:
                count[length] -= 1
                if not count[length]:
                    del left[bisect_right(left, length) - 1]
                    bits ^= 1 << length
                    mirror ^= 1 << (capacity - length)
            placed += closing
            space -= sum(closing)
            at = bisect_right(left, space)
            closing = (left[at - 1],) if at else ()
            if closing and left[at - 1] != space and space <= 2 * left[-1]:
                pairs = bits & (mirror >> (capacity - space)) & ((1 << (space // 2 + 1)) - 1)
                half = pairs.bit_length() - 1
                if 2 * half == space and count[half] < 2:
                    half = (pairs ^ (1 << half)).bit_length() - 1
                if half > 0:
                    closing = (space - half, half)
        row_ends.append(len(placed))
    return np.array(placed, dtype=np.int64), row_ends
