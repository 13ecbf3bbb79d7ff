"""Several runs beside each other: where recipes differ, curves in one drawing, measures, how sure the gaps are.

Owns what is told in which words, on a terminal and on a page that loads nothing. Input is plain data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from raysft.observe.benchmarks import compared_benchmarks
from raysft.observe.charts import Point, Series, line_chart, smooth
from raysft.observe.curves import curves_of
from raysft.observe.data_report import aligned
from raysft.observe.goodput import duration_text
from raysft.observe.pages import page_template
from raysft.recipe.measures import MEASURES, changed, shown, title_of

Fields = Mapping[str, Any]

COLOURS = 8
"""Runs that a colour of their own tells apart."""

_NOT_COMPARED = ("name", "storage", "tune")
_MISSING = "-"


@dataclass(frozen=True)
class ComparedRun:
    """What is told of one run."""

    label: str
    """Its name; its place, where two have one name."""
    status: str
    """As run/run_state.py names it."""
    wall_s: float
    fields: Fields
    """The recipe's fields by their dotted names, defaults too."""
    metrics: Sequence[Fields]
    """Lines of the metrics file, of the final lineage."""
    after: Fields
    """{set: what was measured after training}; empty: nothing was, or not yet."""
    changes: Mapping[str, Mapping[str, Fields]]
    """{set: {metric: Change}} against the first run, where both answered the same prompts."""
    benchmarks: Fields | None = None
    """What lm-evaluation-harness gave (observe/benchmarks.py); None: it was not asked."""


Table = list[tuple[str, list[str]]]
"""(what, its text of each run)."""


def overview(runs: Sequence[ComparedRun]) -> Table:
    """How far each came, how long it took, where its losses ended."""
    rows: dict[str, list[str]] = {}
    for run in runs:
        steps = [line for line in run.metrics if line["kind"] == "step"]
        curves = curves_of(run.metrics)
        speed = f"{median(float(line['tokens_per_s']) for line in steps):,.0f}" if steps else _MISSING
        best = min(((loss, step) for step, loss in curves.held_out), default=None)
        for what, text in (
            ("status", run.status),
            ("steps", f"{steps[-1]['step']:,}" if steps else _MISSING),
            ("tokens", f"{steps[-1]['total_tokens']:,}" if steps else _MISSING),
            ("training loss, last", f"{curves.last:.4g}" if curves.losses else _MISSING),
            ("held-out loss, last", f"{curves.held_out[-1][1]:.4g}" if curves.held_out else _MISSING),
            ("held-out loss, best", f"{best[0]:.4g} at step {best[1]:,}" if best else _MISSING),
            ("tokens per second", speed),
            ("wall time", duration_text(run.wall_s) if run.wall_s else _MISSING),
        ):
            rows.setdefault(what, []).append(text)
    return list(rows.items())


def differing_fields(runs: Sequence[ComparedRun]) -> Table:
    """The recipe's fields in which not all runs agree; a field that a run's kinds lack is `-`."""
    names = dict.fromkeys(name for run in runs for name in run.fields)
    rows = []
    for name in names:
        values = [_text(run.fields[name]) if name in run.fields else _MISSING for run in runs]
        if name.partition(".")[0] not in _NOT_COMPARED and len(set(values)) > 1:
            rows.append((name, values))
    return rows


def measured(runs: Sequence[ComparedRun]) -> Table:
    """What was measured after training, with 95% intervals, and how far it is from the first run's."""
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.after):
        found = [run.after.get(name, {}).get("metrics", {}) for run in runs]
        of_pairs = any(run.after.get(name, {}).get("of_pairs") for run in runs)
        for measure in MEASURES:
            if not any(measure in one for one in found):
                continue
            cells = []
            for run, one in zip(runs, found, strict=True):
                gap = changed(measure, run.changes.get(name, {}).get(measure))
                value = shown(measure, one[measure]) if measure in one else _MISSING
                cells.append(f"{value}\n{gap}" if gap else value)
            rows.append((title_of(name, measure, of_pairs), cells))
    return rows


def notes(runs: Sequence[ComparedRun]) -> list[str]:
    """What must be known before numbers are compared."""
    differ = {name for name, _ in differing_fields(runs)}
    told = []
    if "objective.kind" in differ:
        told.append("The objectives differ: their training losses are not the same quantity.")
    if any(name in differ for name in ("data.eval", "data.eval_fraction", "data.train", "seed", "evaluate.max_rows")):
        told.append("What is held out may differ between these runs (data, its share, or the seed).")
    if any(run.changes for run in runs):
        told.append(
            "Differences are against the first run, on the same prompts: 95% interval by paired bootstrap, p by "
            "paired randomisation of the answers, one metric at a time; right labels of classifiers by McNemar's "
            "exact test."
        )
    elif any(one.get("num_prompts") for run in runs for one in run.after.values()):
        told.append("No paired test: the runs have not answered the same prompts, or their answers are not kept.")
    if sum(run.benchmarks is not None for run in runs) > 1:
        told.append(
            "Benchmarks: ± is one standard error; that of a difference is of independent samples, which is too large "
            "for two models that were asked the same."
        )
    return told


def comparison_lines(runs: Sequence[ComparedRun]) -> list[str]:
    """For a terminal: a column a run."""
    lines = []
    for title, rows in _tables(runs):
        if rows:
            table = [[title, *(run.label for run in runs)]]
            for what, cells in rows:
                parts = [cell.split("\n") for cell in cells]
                for index in range(max(map(len, parts))):
                    table.append([what if index == 0 else "", *(p[index] if index < len(p) else "" for p in parts)])
            lines += [*aligned(table), ""]
        elif title == "recipe":
            lines += ["recipe       no field differs", ""]
    return [*lines, *notes(runs)]


def render_comparison(runs: Sequence[ComparedRun]) -> str:
    """The page as HTML text."""
    return page_template("comparison.html").render(
        labels=[(run.label, f"run c{index % COLOURS}") for index, run in enumerate(runs)],
        tables=[(title, rows) for title, rows in _tables(runs)],
        charts=[(title, Markup(svg)) for title, svg in _charts(runs)],
        notes=notes(runs),
    )


def _tables(runs: Sequence[ComparedRun]) -> list[tuple[str, Table]]:
    harness = compared_benchmarks([run.benchmarks for run in runs])
    tables = [("run", overview(runs)), ("recipe", differing_fields(runs)), ("after training", measured(runs))]
    return [*tables, *([("benchmarks", harness)] if harness else [])]


def _charts(runs: Sequence[ComparedRun]) -> list[tuple[str, str]]:
    found = []
    for title, kind, name, y_label in (
        ("Training loss, smoothed", "step", "loss", "loss"),
        ("Held-out loss", "eval", "loss", "held-out loss"),
        ("Learning rate", "step", "learning_rate", "learning rate"),
        ("Gradient norm, smoothed", "step", "grad_norm", "gradient norm"),
    ):
        series = []
        for index, run in enumerate(runs):
            points = _points(run.metrics, kind, name)
            calm = smooth(points) if "smoothed" in title else points
            series.append(Series(run.label, calm, f"run c{index % COLOURS}"))
        if any(one.points for one in series):
            drawn = line_chart(
                series, x_label="step", y_label=y_label, width=1040, height=320, may_be_log=name == "loss"
            )
            found.append((title, drawn))
    return found


def _points(metrics: Sequence[Fields], kind: str, name: str) -> list[Point]:
    lines = (line for line in metrics if line["kind"] == kind and line.get(name) is not None)
    return [(float(line["step"]), float(line[name])) for line in lines]


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
