"""What a trial reports: the metrics of a search, from the lines that its run records. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from raysft.recipe.tune import Metric
from raysft.recipe.tune_checks import is_evaluated
from raysft.train.history.records import evaluated_sets

Lines = Sequence[Mapping[str, Any]]

TABLE: dict[str, Callable[[Lines], float]] = {
    "train_loss": lambda steps: fmean(float(line["loss"]) for line in steps[-WINDOW:]),
    "tokens_per_s": lambda steps: median(float(line["tokens_per_s"]) for line in steps),
    "peak_bytes": lambda steps: float(max(line["peak_bytes"] for line in steps)),
}
"""Metric of the steps -> its value after these lines, which are reduced over the ranks already. Others are measures
of a set, SET/MEASURE, and stand in the newest evaluation."""

WINDOW = 8
"""Steps that the training loss is a mean of."""


def readings(
    lines: Lines, metrics: Sequence[Metric], every_steps: int | None, last_step: int
) -> list[tuple[int, tuple[float, ...]]]:
    """(step, values) at each held-out loss; without held-out data every so many steps and at the last.

    lines: metric lines of the final lineage (train/history/records.py).
    """
    steps = [line for line in lines if line["kind"] == "step"]
    evals = [line for line in lines if line["kind"] == "eval" and line["step"] > 0]
    if evals or any(map(is_evaluated, metrics)):
        points = [int(line["step"]) for line in evals]
    else:
        due = {last_step, *range(every_steps or last_step, last_step, every_steps or last_step)}
        points = [int(line["step"]) for line in steps if line["step"] in due]
    found = []
    for point in points:
        until = [line for line in steps if line["step"] <= point]
        if until:
            measured = [line for line in evals if line["step"] <= point]
            found.append((point, tuple(_value(metric, until, measured) for metric in metrics)))
    return found


def _value(metric: Metric, steps: Lines, evals: Lines) -> float:
    """NaN where this evaluation has no such set, or no such term: it had no units."""
    if metric in TABLE:
        return TABLE[metric](steps)
    name, _, measure = metric.partition("/")
    found = evaluated_sets(evals[-1]).get(name, {})
    values = {**found.get("terms", {}), **found.get("metrics", {}), "loss": found.get("loss")}
    value = values.get(measure)
    return math.nan if value is None else float(value)
