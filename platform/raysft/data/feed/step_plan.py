"""The step plan: which rows make up global step k. A function of (seed, step, store) and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from raysft.data.feed.replica_balance import arrange
from raysft.data.hashing import splitmix64


@dataclass(frozen=True)
class Order:
    """How rows follow each other. Order `global` shuffles all rows; `windowed` takes the windows of the store one
    after the other and shuffles inside each, as a run that streams its data does."""

    rows_per_step: int
    seed: int
    windowed: bool = False
    balanced: bool = True
    """Each step gets rows of every cost (balance.arrange); not under a curriculum."""

    def shuffled(self, squares: np.ndarray, epoch: int, window: int | None = None, taken: int = 0) -> np.ndarray:
        """The order of some rows in an epoch, int64 [rows]: of all of them, or of a window, before which the
        epoch has `taken` rows. squares: int64 [rows], sum of squared segment lengths."""
        with np.errstate(over="ignore"):
            salt = np.asarray(self.seed + (epoch << 32), np.uint64)
            if window is not None:
                salt = splitmix64(np.uint64(self.seed)) + np.uint64((epoch << 32) + window)
        order = _shuffled(len(squares), salt)
        return arrange(order, squares, self.rows_per_step, taken % self.rows_per_step) if self.balanced else order


@dataclass(frozen=True)
class StepPlan:
    """Rows of every step of a store. World size, rank and restart history are no part of it."""

    order: Order
    windows: Sequence[int]
    """Rows of each window of the store."""
    squares: np.ndarray  # [rows] int64
    _epochs: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """The last step of an epoch may be short; it is never merged with the next epoch."""
        return math.ceil(len(self.squares) / self.order.rows_per_step)

    def epoch(self, step: int) -> int:
        """0-based epoch that 0-based global step `step` belongs to."""
        return step // self.steps_per_epoch

    def rows(self, step: int) -> np.ndarray:
        """Store row indices of global step `step`, int64 [<= rows_per_step]."""
        epoch, size = self.epoch(step), self.order.rows_per_step
        if epoch not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch] = self._epoch_order(epoch)
        start = step % self.steps_per_epoch * size
        return self._epochs[epoch][start : start + size]

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if not self.order.windowed:
            return self.order.shuffled(self.squares, epoch)
        starts = np.cumsum((0, *self.windows)).tolist()
        return np.concatenate(
            [
                start + self.order.shuffled(self.squares[start : start + rows], epoch, window, start)
                for window, (start, rows) in enumerate(zip(starts, self.windows, strict=False))
            ]
        )


def _shuffled(num_rows: int, salt: np.uint64 | np.ndarray) -> np.ndarray:
    """Rows sorted by a hash of (salt, row): the same in every numpy version, unlike permutation()."""
    with np.errstate(over="ignore"):
        keys = splitmix64(np.arange(num_rows, dtype=np.uint64) + splitmix64(np.asarray(salt, np.uint64)))
    return np.argsort(keys, kind="stable")
