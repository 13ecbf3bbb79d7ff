"""The report of a search: what is told in which words, on a terminal and on a page. Knows no Optuna.

Input is plain data, so that it can be made from a study alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from raysft.observe import tune_charts
from raysft.observe.data_report import aligned
from raysft.observe.goodput import duration_text
from raysft.observe.pages import page_template


@dataclass(frozen=True)
class TrialFacts:
    """One trial."""

    number: int
    point: Mapping[str, Any]
    state: str
    """running, finished, pruned or failed."""
    values: tuple[float, ...]
    """Newest value of each metric; empty before the first."""
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


def search_lines(facts: SearchFacts) -> list[str]:
    """A table of the trials, best first, the cost of all, and what mattered."""
    lines = [*aligned([_head(facts), *_rows(facts)]), search_totals(facts)]
    for metric, shares in facts.importances.items():
        if shares:
            told = ", ".join(f"{short_name(name)} {share:.0%}" for name, share in shares.items())
            lines.append(f"importance for {metric}: {told}")
    return lines


def render_search(facts: SearchFacts, best_yaml: str) -> tuple[str, dict[str, bytes]]:
    """(the page as HTML text, {file name: picture})."""
    charts = _charts(facts)
    page = page_template("tune_report.html").render(
        facts=facts,
        told=search_totals(facts),
        tiles=_tiles(facts),
        charts=[(name, title, note, Markup(svg)) for name, (title, note, svg) in charts.items()],
        importances=[(metric, list(shares.items())) for metric, shares in facts.importances.items() if shares],
        head=_head(facts),
        rows=_rows(facts),
        best_yaml=best_yaml,
    )
    return page, {f"{name}.png": tune_charts.png(svg) for name, (_, _, svg) in charts.items()}


def _charts(facts: SearchFacts) -> dict[str, tuple[str, str, str]]:
    """{file name: (title, note, SVG)}."""
    ended = [trial for trial in facts.trials if trial.values and trial.state in ("finished", "pruned")]
    whole = [trial for trial in ended if trial.state == "finished"]
    metric, less = facts.metrics[0], facts.modes[0] == "min"
    rows = [(t.number, {**t.point, metric: t.values[0]}) for t in ended]
    charts = {
        "history": (
            "Optimisation history",
            _history_note(facts),
            tune_charts.history(
                [(t.number, t.values[0]) for t in whole],
                [(t.number, t.values[0]) for t in ended if t.state == "pruned"],
                metric,
                less_is_better=less,
                failed=[t.number for t in facts.trials if t.state == "failed"],
            ),
        ),
        "parallel": (
            "Parallel coordinates",
            f"The stronger a line, the better its {metric}. A pruned trial counts with its last value.",
            tune_charts.parallel(rows, [*facts.fields, metric], facts.best, less_is_better=less),
        ),
        "cost": ("Cost of each trial", "", tune_charts.cost_bars([(t.number, t.core_s) for t in facts.trials])),
    }
    if any(trial.curve for trial in facts.trials):
        lines = {trial.number: trial.curve for trial in facts.trials if trial.curve}
        charts["curves"] = (
            "Learning curves",
            "Strong: the best. A trial that measured once is a dot.",
            tune_charts.curves(lines, facts.best, metric),
        )
    for index, other in enumerate(facts.metrics[1:], start=1):
        points = {t.number: (t.values[0], t.values[index]) for t in whole}
        drawn = tune_charts.front(points, facts.best, (metric, other))
        charts[f"pareto-{other}"] = (f"{metric} against {other}", "The line: the Pareto front.", drawn)
    return charts


def _history_note(facts: SearchFacts) -> str:
    """What the dots are, and which trials have none."""
    without = [trial for trial in facts.trials if not trial.values and trial.state == "pruned"]
    told = "Pruned trials stand at their last value, failed ones at the worst of all."
    if not without:
        return told
    numbers = ", ".join(str(trial.number) for trial in without[:8]) + (", ..." if len(without) > 8 else "")
    return f"{told} Not shown: {len(without)} that measured nothing (trial {numbers}); the table says why."


def _tiles(facts: SearchFacts) -> list[tuple[str, str, str]]:
    """(label, value, remark) of the numbers on top."""
    found = {trial.number: trial for trial in facts.trials}
    tiles = []
    for index, metric in enumerate(facts.metrics):
        values = [found[number].values[index] for number in facts.best if found[number].values]
        if values:
            best = min(values) if facts.modes[index] == "min" else max(values)
            number = next(n for n in facts.best if found[n].values[index] == best)
            tiles.append((metric, shown(best), f"trial {number}"))
    tiles.append(
        ("trials", str(len(facts.trials)), f"{len(facts.best)} on the front" if len(facts.metrics) > 1 else "")
    )
    tiles.append(("cores", duration_text(sum(trial.core_s for trial in facts.trials)), "reserved, over all trials"))
    return tiles


def search_totals(facts: SearchFacts) -> str:
    """`16 trials: 5 finished, 11 pruned; 12 min 03 s of cores`."""
    core_s, gpu_s = sum(t.core_s for t in facts.trials), sum(t.gpu_s for t in facts.trials)
    counts = {state: sum(t.state == state for t in facts.trials) for state in _ORDER}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    gpus = f", {duration_text(gpu_s)} of GPUs" if gpu_s else ""
    return f"{len(facts.trials)} trials: {told or 'none'}; {duration_text(core_s)} of cores{gpus}"


def _head(facts: SearchFacts) -> list[str]:
    return ["trial", "state", *facts.metrics, "steps", "core-seconds", *map(short_name, facts.fields), ""]


def _rows(facts: SearchFacts) -> list[list[str]]:
    return [
        [
            f"{'*' if trial.number in facts.best else ' '}{trial.number}",
            trial.state,
            *(shown(value) for value in trial.values or ("-",) * len(facts.metrics)),
            str(trial.curve[-1][0]) if trial.curve else "-",
            f"{trial.core_s:.1f}",
            *(shown(trial.point.get(name, "-")) for name in facts.fields),
            trial.why[:80],
        ]
        for trial in ranked(facts)
    ]


_ORDER = {"finished": 0, "running": 1, "pruned": 2, "failed": 3}


def ranked(facts: SearchFacts) -> list[TrialFacts]:
    """Finished ones by the first metric, then the others by it."""
    sign = 1 if facts.modes[0] == "min" else -1
    return sorted(
        facts.trials,
        key=lambda t: (_ORDER[t.state], sign * t.values[0] if t.values else float("inf"), t.number),
    )


def short_name(name: str) -> str:
    """`learning_rate` of `optimizer.learning_rate`."""
    return name.rpartition(".")[2]


def shown(value: Any) -> str:
    """A value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
