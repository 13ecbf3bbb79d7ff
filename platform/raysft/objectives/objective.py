"""What an objective is: declared terms, metrics and columns, and a function from the model's view to sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from raysft.objectives.base import RowFields, Term, count_units
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.view import View
from raysft.recipe.columns import Field


class Loss(NamedTuple):
    """What a micro-batch adds: sums, never means, for whoever divides knows the step."""

    sums: dict[str, Tensor]
    """{term: sum, [] or one for each trial [P]}."""
    metrics: dict[str, tuple[Tensor, Tensor]] = {}  # noqa: RUF012
    """{metric: (sum, count)}, of the same shape, without gradients."""


@dataclass(frozen=True)
class Objective:
    """What is minimised."""

    terms: tuple[Term, ...]
    loss: Callable[[View, DeviceBatch], Loss]
    """Inside of the forward. The batch is that of the view's positions."""
    columns: tuple[Field, ...] = ()
    """What it reads of the data besides tokens and targets."""
    metrics: tuple[str, ...] = ()
    """Names of the means that it tells besides its terms."""
    step_means: tuple[str, ...] = ()
    """Those of its metrics whose mean over the whole global step the loss reads: a column of that name, the same
    number for every atom. A pass of its own finds them first, without gradients; in that pass they are 0."""

    @property
    def batch_columns(self) -> tuple[Field, ...]:
        """The columns of a batch on the device: those of the data, then the means of the step."""
        return (*self.columns, *(Field(name, "atom", "<f4") for name in self.step_means))

    def units(self, rows: Sequence[RowFields]) -> dict[str, float]:
        """{term: units of these rows}. Runs on the host, before the forward."""
        return count_units(self.terms, rows)
