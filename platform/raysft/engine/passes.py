"""A pipeline stage as DeepSpeed calls it: hidden states in, hidden states or the loss out.

Only hidden states travel between stages. Each rank of a replica has the replica's micro-batches, and looks up
positions and labels by the number of its forward pass: 1F1B runs them in order on every stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raysft.engine.step import metric_width, stacked
from raysft.model.stages import Stage
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Objective
from raysft.objectives.view import View


@dataclass(frozen=True)
class Work:
    """The micro-batches of one global step, or of one evaluation."""

    batches: Iterable[DeviceBatch]
    """Rows and their lengths may differ. Asked for one by one."""
    scale: Tensor
    """[terms] float64: what each term's sum is multiplied by before backward."""
    seeds: Sequence[int] = ()
    """Seeds of the dropout of each micro-batch on this stage; empty: no dropout."""


class Passes(nn.Module):
    """forward(hidden) -> hidden [B, T, D], or on the last stage the scaled loss of the micro-batch, []."""

    def __init__(self, stage: Stage, objective: Objective) -> None:
        super().__init__()
        self.stage, self._objective = stage, objective
        self._work: Work | None = None
        self._batches: Iterator[DeviceBatch] = iter(())
        self._done = 0
        self.sums = torch.zeros(0)
        """[terms] float64 of the micro-batches so far; zero where the loss is not computed."""
        self.metrics = torch.zeros(0)
        """[2 x metrics + counts] float64 (engine/step.py), likewise."""

    def begin(self, work: Work) -> None:
        """The next forward pass is of the first of these micro-batches."""
        self._work, self._batches, self._done = work, iter(work.batches), 0
        self.sums = torch.zeros_like(work.scale)
        self.metrics = work.scale.new_zeros(metric_width(self._objective))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [B, T, D] from the stage before; the first stage does not look at it."""
        work, number = self._work, self._done
        assert work is not None
        self._done += 1
        batch = next(self._batches)
        if work.seeds:
            torch.manual_seed(work.seeds[number])
        answer: Tensor = self.stage(
            hidden if self.stage.embedding is None else batch.input_ids, batch.position_ids, batch.known.borders
        )
        if self.stage.head is None:
            return answer
        found = stacked(self._objective.loss(View(answer, self.stage.head, batch), batch), self._objective)
        self.sums += found.sums.detach()
        self.metrics += found.metrics
        return (found.sums * work.scale.to(found.sums.dtype)).sum()
