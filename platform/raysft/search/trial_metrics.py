"""What a trial reports: the metrics of a search, from the lines that its run records. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from raysft.recipe.tune import Metric

Lines = Sequence[Mapping[str, Any]]

TABLE: dict[Metric, Callable[[Lines, Lines], float]] = {
    "held_out_loss": lambda steps, evals: float(evals[-1]["loss"]),
    "train_loss": lambda steps, evals: fmean(float(line["loss"]) for line in steps[-WINDOW:]),
    "tokens_per_s": lambda steps, evals: median(float(line["tokens_per_s"]) for line in steps),
    "peak_bytes": lambda steps, evals: float(max(line["peak_bytes"] for line in steps)),
}
"""Metric -> its value after these step lines and held-out losses. All are reduced over the ranks already."""

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
    if evals or "held_out_loss" in metrics:
        points = [int(line["step"]) for line in evals]
    else:
        due = {last_step, *range(every_steps or last_step, last_step, every_steps or last_step)}
        points = [int(line["step"]) for line in steps if line["step"] in due]
    found = []
    for point in points:
        until = [line for line in steps if line["step"] <= point]
        if until:
            measured = [line for line in evals if line["step"] <= point]
            found.append((point, tuple(TABLE[metric](until, measured) for metric in metrics)))
    return found
