"""The curves of a run, from the lines that it has recorded: levels, noise, what was held out. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any

Fields = Mapping[str, Any]
Points = Sequence[tuple[int, float]]
"""(step, loss), in order."""


@dataclass(frozen=True)
class Curves:
    """What was measured, of the steps that count. Lists of equal length, one value a step."""

    numbers: Sequence[int]
    losses: Sequence[float]
    norms: Sequence[float]
    rates: Sequence[float]
    skipped: int
    """Steps whose gradients were not finite: not in the lists."""
    held_out: Points

    @cached_property
    def window(self) -> int:
        """Steps over which a level is taken."""
        return max(5, len(self.losses) // 20)

    @cached_property
    def first(self) -> float:
        """Loss of the first steps."""
        return median(self.losses[: max(3, len(self.losses) // 50)])

    @cached_property
    def last(self) -> float:
        """Loss of the last steps."""
        return median(self.losses[-self.window :])

    @cached_property
    def noise(self) -> float:
        """Standard deviation of a step's loss, from the gaps between neighbours: 1.4826 MAD / sqrt(2)."""
        gaps = [abs(b - a) for a, b in pairwise(self.losses)]
        return 1.05 * median(gaps)

    def around(self, step: int) -> float:
        """Training loss about a step."""
        half = self.window // 2 + 1
        near = self.losses[bisect_left(self.numbers, step - half) : bisect_right(self.numbers, step + half)]
        return median(near) if near else math.nan


def _value(line: Fields, measure: str) -> float:
    """NaN where a line does not tell it."""
    found = line["loss"] if measure == "loss" else {**line.get("metrics", {}), **line.get("terms", {})}.get(measure)
    return math.nan if found is None else float(found)


def curves_of(lines: Sequence[Fields], measure: str = "loss") -> Curves:
    """From the lines of a run's metrics. The held-out data is that of the recipe's own data.

    measure: what stands for the loss: it, a term or a metric of the objective.
    """
    steps = [line for line in lines if line["kind"] == "step"]
    taken = [one for one in steps if not one["skipped"]]
    values = [one["loss"] for one in taken] if measure == "loss" else [_value(one, measure) for one in taken]
    found = [(one, float(value)) for one, value in zip(taken, values, strict=True) if math.isfinite(value)]
    good = [one for one, _ in found]
    evaluated = [line for line in lines if line["kind"] == "eval" and math.isfinite(_value(line, measure))]
    return Curves(
        numbers=[int(one["step"]) for one in good],
        losses=[value for _, value in found],
        norms=[float(one.get("grad_norm", math.nan)) for one in good],
        rates=[float(one["learning_rate"]) for one in good],
        skipped=len(steps) - len(good),
        held_out=[(int(line["step"]), _value(line, measure)) for line in evaluated],
    )


def loss_line(lines: Sequence[Fields]) -> str:
    """`loss 5.283 to 1.832 in 300 steps; held out 5.616 to 1.856, best 1.856 at step 300`."""
    curves = curves_of(lines)
    if not curves.losses:
        return "loss         no step is recorded"
    told = f"loss         {curves.first:.4g} to {curves.last:.4g} in {curves.numbers[-1]:,} steps"
    if curves.held_out:
        best, step = min((loss, step) for step, loss in curves.held_out)
        first, last = curves.held_out[0][1], curves.held_out[-1][1]
        told += f"; held out {first:.4g} to {last:.4g}, best {best:.4g} at step {step:,}"
    return told
