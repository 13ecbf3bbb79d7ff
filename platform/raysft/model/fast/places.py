"""Positions of packed rows that are known before the device has them, so that nobody waits for it to ask which.

A mask on a GPU that picks elements (`values[mask]`) makes the host wait until the GPU has counted them. The rows are
made on the host, which knows where their targets are: it counts them there, and the device gets their numbers.

Shapes: B rows, T tokens a row, N positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Some positions of rows, row by row, each at most once."""

    index: Tensor
    """[N] int64, ascending: position t of row b is number b * T + t."""
    counts: tuple[int, ...] | None = None
    """How many lie in each of P parts, one behind the other, that are summed apart; None: all are one."""

    @classmethod
    def where(cls, mask: Tensor) -> Places:
        """Those where mask [B, T] bool holds. On a GPU it waits until they are counted."""
        return cls(mask.flatten().nonzero().flatten())

    def of(self, values: Tensor) -> Tensor:
        """What stands there: values [B, T, ...] -> [N, ...]."""
        return values.flatten(0, 1).index_select(0, self.index)
