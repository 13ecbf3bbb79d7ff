"""Packing atoms into rows of at most `capacity` tokens. Pure numpy; knows lengths, not tokens.

A row begins with the longest atom left and takes the longest that fits, but as soon as one or two atoms fill
the rest exactly, these (the pair of most equal lengths) close the row. On GSM8K this gives the lower bound of
685 rows of 2,048 where best-fit decreasing gives 690.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raysft.errors import DataError

Indices = NDArray[np.int64]


def pack(lengths: NDArray[np.integer], capacity: int) -> list[Indices]:
    """Rows as arrays of atom indices; every atom once, never split. The same lengths give the same rows."""
    longest = int(lengths.max()) if len(lengths) else 0
    if longest > capacity:
        raise DataError(
            "an atom is longer than a row",
            got=f"{longest} tokens",
            expected=f"at most {capacity}",
            fix="raise data.max_tokens, or let data.over_long drop or cut such samples",
        )
    shelf = _Shelf(lengths, capacity)
    rows = []
    while shelf.lengths:
        row: list[int] = []
        space = capacity
        while space and shelf.lengths and (closing := shelf.next(space, opened=bool(row))):
            row += [shelf.take(length) for length in closing]
            space -= sum(closing)
        rows.append(np.asarray(row, dtype=np.int64))
    return rows


class _Shelf:
    """The atoms left, by length. `lengths` has bit l set iff an atom of length l is left; `mirror` is the
    same set counted down from `capacity`, so that one shift and one AND find all pairs of a given sum."""

    def __init__(self, lengths: NDArray[np.integer], capacity: int) -> None:
        self.capacity = capacity
        self.stacks: dict[int, list[int]] = {}
        for atom in range(len(lengths) - 1, -1, -1):
            self.stacks.setdefault(int(lengths[atom]), []).append(atom)
        self.lengths = sum(1 << length for length in self.stacks)
        self.mirror = sum(1 << (capacity - length) for length in self.stacks)

    def take(self, length: int) -> int:
        """Remove and return the first atom of this length."""
        atom = self.stacks[length].pop()
        if not self.stacks[length]:
            self.lengths ^= 1 << length
            self.mirror ^= 1 << (self.capacity - length)
        return atom

    def next(self, space: int, *, opened: bool) -> tuple[int, ...]:
        """Lengths to put into `space`: one or two that fill it, else the longest that fits, or none."""
        if self.lengths >> space & 1:
            return (space,)
        if opened:
            pairs = self.lengths & (self.mirror >> (self.capacity - space)) & ((1 << (space // 2 + 1)) - 1)
            while pairs:
                half = pairs.bit_length() - 1
                if 2 * half != space or len(self.stacks[half]) > 1:
                    return (space - half, half)
                pairs ^= 1 << half
        fitting = self.lengths & ((1 << (space + 1)) - 1)
        return (fitting.bit_length() - 1,) if fitting else ()
