"""The rows of a step, wherever they come from: a finished store here, a stream in stream.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from raysft.data.feed.step_plan import Order, StepPlan
from raysft.data.store.packed_rows import Row
from raysft.data.store.parts import TokenStore
from raysft.recipe.schema import Recipe


@dataclass(frozen=True)
class StepRows:
    """The rows of one global step. Their sizes are known without reading them."""

    tokens: np.ndarray  # [rows] int64
    squares: np.ndarray  # [rows] int64, sum of squared segment lengths
    read: Callable[[Sequence[int]], list[Row]]
    """Rows by their place in the step."""
    cursor: Mapping[str, int] = field(default_factory=dict)
    """Where the next step begins, when that does not follow from its number."""


def row_order(recipe: Recipe) -> Order:
    """The order of rows that a recipe asks for."""
    return Order(
        rows_per_step=recipe.train.rows_per_step,
        seed=recipe.seed,
        windowed=recipe.data.order == "windowed",
        balanced=recipe.data.mixture.curriculum is None,
    )


class Rows(Protocol):
    """Rows of global steps."""

    def step(self, step: int) -> StepRows:
        """Rows of 0-based global step `step`."""
        ...


class StoredRows:
    """Rows of a token store in the order of its step plan: any step at any time."""

    def __init__(self, store: TokenStore, order: Order) -> None:
        self._store = store
        self._plan = StepPlan(order, store.windows, store.row_sizes()[1])

    def step(self, step: int) -> StepRows:
        """See Rows."""
        return self._rows(self._plan.rows(step))

    def first(self, num_rows: int) -> list[StepRows]:
        """The first rows of the store in order, in batches of a step's size: for held-out losses."""
        rows, size = np.arange(min(num_rows, self._store.num_rows)), self._plan.order.rows_per_step
        return [self._rows(rows[start : start + size]) for start in range(0, len(rows), size)]

    def _rows(self, rows: np.ndarray) -> StepRows:
        tokens, squares = self._store.row_sizes()
        return StepRows(
            tokens=tokens[rows],
            squares=squares[rows],
            read=lambda indices: self._store.read_rows([int(rows[index]) for index in indices]),
        )
