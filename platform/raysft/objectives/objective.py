"""What an objective is: declared terms, metrics and columns, and a function from the model's view to sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    vectors: Tensor | None = None
    """[S, D] of the samples, without gradients, where a whole step is compared."""
    counts: Tensor | None = None
    """What `Counted` tells of, [width] or of each trial [P, width], without gradients; None: nothing is counted."""


class StepSamples(NamedTuple):
    """All samples of a global step, of every micro-batch and rank, atom by atom."""

    vectors: Tensor
    """[N, D] float32."""
    keys: Tensor
    """[N] int64, the same for samples of the same tokens."""
    is_first: Tensor
    """[N] bool: is it the first of its atom?"""


@dataclass(frozen=True)
class WholeStep:
    """A loss that compares all samples of a step: its costs, and where each sample's vector should go."""

    columns: tuple[Field, ...]
    """What `solve` finds, of each segment or atom; the loss reads it of its micro-batch."""
    solve: Callable[[StepSamples], dict[str, Tensor]]
    """{column: [N, D] of the segments, [atoms]}, by the vectors that `Loss` has; without gradients."""
    measure: Callable[[StepSamples], dict[str, Tensor]] | None = None
    """Columns that only evaluations need, found of all samples of a set; elsewhere they are 0."""


@dataclass(frozen=True)
class Counted:
    """Measures of held-out rows that are no means: what they are computed of adds up over rows and ranks."""

    names: tuple[str, ...]
    """The measures."""
    width: int
    """Numbers that they are computed of."""
    tell: Callable[[Sequence[float]], dict[str, float]]
    """[width] sums of a whole set -> {measure: value}; empty of nothing."""


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
    live: tuple[Field, ...] = ()
    """What it reads of tokens that is found for each micro-batch as it comes (ObjectiveModule.ask)."""

    counted: Counted | None = None
    """What evaluations tell besides; a step of training is too small a sample of it."""

    scheduled: Mapping[str, Callable[[float], float]] = field(default_factory=dict)
    """{column: the number that the loss reads at a share of the run's steps, from 0 to 1}: of atoms, the same for
    all. Where nothing is trained it is that of the share 0."""
    whole_step: WholeStep | None = None
    """Where the loss is no sum over micro-batches: a pass of its own, without gradients and with the dropout of the
    one that follows, finds the vectors of all; in that pass its columns are 0, [S, 1] of segments."""

    @property
    def batch_columns(self) -> tuple[Field, ...]:
        """The columns of a batch on the device: those of the data, what is found of it, then of the step."""
        of_step = () if self.whole_step is None else self.whole_step.columns
        numbers = (Field(name, "atom", "<f4") for name in (*self.step_means, *self.scheduled))
        return (*self.columns, *self.live, *numbers, *of_step)

    @property
    def measures(self) -> set[str]:
        """Names of all that it tells of held-out rows, besides the loss."""
        counted = () if self.counted is None else self.counted.names
        return {*(term.name for term in self.terms), *self.metrics, *counted}

    @property
    def num_counts(self) -> int:
        """Numbers of `Loss.counts`."""
        return 0 if self.counted is None else self.counted.width

    def units(self, rows: Sequence[RowFields]) -> dict[str, float]:
        """{term: units of these rows}. Runs on the host, before the forward."""
        return count_units(self.terms, rows)
