"""The report of a search: what is told in which words, on a terminal and on a page. Knows no Optuna.

Input is plain data, so that it can be made from a study alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysft.observe.data_report import aligned
from raysft.observe.report import duration_text


@dataclass(frozen=True)
class TrialFacts:
    """One trial."""

    number: int
    point: Mapping[str, Any]
    state: str
    """running, finished, pruned or failed."""
    values: tuple[float, ...]
    """Of each metric, newest; empty before the first."""
    curve: Sequence[tuple[int, float]]
    """(step, first metric)."""
    seconds: float
    core_s: float
    gpu_s: float
    why: str
    """It failed or was passed over."""


@dataclass(frozen=True)
class SearchFacts:
    """What a report tells."""

    name: str
    metrics: Sequence[str]
    modes: Sequence[str]
    fields: Sequence[str]
    trials: Sequence[TrialFacts]
    best: tuple[int, ...]
    """The best trial, or the Pareto front."""
    importances: Mapping[str, Mapping[str, float]]
    """Metric -> field -> share."""


def summary_lines(facts: SearchFacts) -> list[str]:
    """A table of the trials, best first, the cost of all, and what mattered."""
    head = ["trial", "state", *facts.metrics, "steps", "core-seconds", *map(short, facts.fields), ""]
    rows = [head]
    for trial in ranked(facts):
        rows.append(
            [
                f"{'*' if trial.number in facts.best else ' '}{trial.number}",
                trial.state,
                *(shown(value) for value in trial.values or ("-",) * len(facts.metrics)),
                str(trial.curve[-1][0]) if trial.curve else "-",
                f"{trial.core_s:.1f}",
                *(shown(trial.point.get(name, "-")) for name in facts.fields),
                trial.why[:80],
            ]
        )
    lines = aligned(rows)
    core_s, gpu_s = sum(t.core_s for t in facts.trials), sum(t.gpu_s for t in facts.trials)
    counts = {
        state: sum(t.state == state for t in facts.trials) for state in ("finished", "pruned", "failed", "running")
    }
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines.append(
        f"{len(facts.trials)} trials: {told or 'none'}; {duration_text(core_s)} of cores"
        + (f", {duration_text(gpu_s)} of GPUs" if gpu_s else "")
    )
    for metric, shares in facts.importances.items():
        if shares:
            told = ", ".join(f"{short(name)} {share:.0%}" for name, share in shares.items())
            lines.append(f"importance for {metric}: {told}")
    return lines


def ranked(facts: SearchFacts) -> list[TrialFacts]:
    """Finished ones by the first metric, then the others by it."""
    sign = 1 if facts.modes[0] == "min" else -1
    order = {"finished": 0, "running": 1, "pruned": 2, "failed": 3}
    return sorted(
        facts.trials,
        key=lambda t: (order[t.state], sign * t.values[0] if t.values else float("inf"), t.number),
    )


def short(name: str) -> str:
    """`learning_rate` of `optimizer.learning_rate`."""
    return name.rpartition(".")[2]


def shown(value: Any) -> str:
    """A value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
