"""The step plan: which rows make up global step k. A function of (seed, step, store) and of nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class StepPlan:
    """Rows of every step. World size, rank and restart history are no part of it."""

    num_rows: int
    rows_per_step: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """The last step of an epoch may be short; it is never merged with the next epoch."""
        return math.ceil(self.num_rows / self.rows_per_step)

    def epoch(self, step: int) -> int:
        """0-based epoch that 0-based global step `step` belongs to."""
        return step // self.steps_per_epoch

    def rows(self, step: int) -> np.ndarray:
        """Store row indices of global step `step`, int64 [<= rows_per_step]."""
        order = _epoch_order(self.num_rows, self.seed, self.epoch(step))
        start = step % self.steps_per_epoch * self.rows_per_step
        return order[start : start + self.rows_per_step]


@lru_cache(maxsize=2)
def _epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Rows sorted by a hash of (seed, epoch, row): the same in every numpy version, unlike permutation()."""
    keys = _splitmix64(np.arange(num_rows, dtype=np.uint64) + _splitmix64(np.uint64(seed) + np.uint64(epoch << 32)))
    return np.argsort(keys, kind="stable")


def _splitmix64(x: np.ndarray | np.uint64) -> np.ndarray:
    """Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators": the output function."""
    with np.errstate(over="ignore"):
        z = np.asarray(x, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
