"""report.html: one page that tells a run, with nothing to load from elsewhere. Owns what is told in which words.

Input is plain data, so that the page can be made from a run directory alone. Everything is escaped.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from markupsafe import Markup

from raysft.observe.benchmarks import benchmark_rows
from raysft.observe.charts import Point, Series, line_chart, smooth
from raysft.observe.diagnosis import RULES
from raysft.observe.findings import Finding
from raysft.observe.goodput import TITLES, TimeFacts, duration_text, svg_bar
from raysft.observe.labels import label_lines, reliability_chart
from raysft.observe.pages import page_template
from raysft.recipe.forgetting import Forgotten
from raysft.recipe.measures import MEASURES, Row, rows_of

Fields = Mapping[str, Any]

Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class AttemptFacts:
    """One start of the worker group."""

    number: int
    from_step: int
    """Step of the checkpoint it started from; 0: from the beginning."""
    to_step: int
    """Last step it recorded."""
    ended: str
    """finished, or why it ended."""


@dataclass(frozen=True)
class ReportFacts:
    """What the page tells."""

    run: str
    status: str
    """One of Status."""
    ended_at: str
    """When it ended, or was looked at."""
    wall_s: float
    """Wall time from the first command's beginning to the end; 0: not recorded."""
    arithmetic: Sequence[str]
    """ResolvedRun.describe() and Schedule.describe()."""
    metrics: Sequence[Fields]
    """Lines of the metrics file, of the final lineage: `kind` is step or eval."""
    before: Fields | None
    """evaluate_model() of the untrained model: {set: metrics, num_prompts, samples}."""
    after: Fields | None
    certificate: Sequence[str]
    """What the data became: counts, refusals, masks."""
    attempts: Sequence[AttemptFacts]
    recipe_yaml: str
    """What differs from the defaults."""
    fingerprints: Mapping[str, str]
    versions: Mapping[str, str]
    time: TimeFacts | None = None
    """None: not recorded."""
    findings: Sequence[Finding] = ()
    """What is wrong with it, by its own records."""
    places: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """{step: where its samples come from} of the steps that findings name."""
    forgotten: Sequence[Forgotten] = ()
    """What the guarded sets have lost; empty: none is guarded, or they were not measured twice."""
    benchmarks: Fields | None = None
    """What lm-evaluation-harness gave (observe/benchmarks.py); None: it was not asked."""
    recipe_whole: str = ""
    """All fields, with their defaults."""
    why: str = ""
    """It was stopped, or failed."""
    home: str = ""
    """Address of a page over all runs; empty: the page stands alone."""


MOST_USUAL = 5000
"""Steps, drawn evenly, by which the usual one is known: the error of a median of more is below what is shown."""

REFRESH_S = 30
"""After which a browser reads the page of a running run again."""


def render_report(facts: ReportFacts) -> str:
    """The page as HTML text."""
    before, after = facts.before or {}, facts.after or {}
    steps, evals = ([line for line in facts.metrics if line["kind"] == kind] for kind in ("step", "eval"))
    results = rows_of(before, after)
    hows: dict[str, list[str]] = {}
    for row in results:
        hows.setdefault(row.how, []).append(row.title)
    return page_template("report.html").render(
        facts=facts,
        duration=f"wall time {duration_text(facts.wall_s)}" if facts.wall_s else "",
        refresh_s=REFRESH_S if facts.status == "running" else 0,
        tiles=_tiles(facts, steps, before, after),
        charts={name: Markup(svg) for name, svg in _charts(steps, evals).items()},
        parts={name: Markup(svg) for name, svg in (_parts_charts(steps, evals) | _set_charts(evals)).items()},
        has_eval=bool(evals),
        results=results,
        has_changes=any(row.change for row in results),
        hows=[f"{', '.join(titles)}: {how}" for how, titles in hows.items() if how],
        samples=_samples(before, after),
        classified={
            name: (label_lines(one["classes"]), Markup(reliability_chart(one["classes"])))
            for name, one in after.items()
            if "classes" in one
        },
        benchmarks=benchmark_rows(facts.benchmarks) if facts.benchmarks else [],
        num_rules=len(RULES),
        time_bar=Markup(svg_bar(facts.time)) if facts.time else "",
        incident_titles=TITLES,
        num_prompts=max(
            (one.get("num_prompts", 0) for found in (before, after) for one in found.values()), default=0
        ),
    )


def _points(lines: Sequence[Fields], field: str) -> list[Point]:
    """(step, value) of each line that has a number there."""
    return [(line["step"], value) for line in lines if (value := line.get(field)) is not None]


def _charts(steps: Sequence[Fields], evals: Sequence[Fields]) -> dict[str, str]:
    loss = _points(steps, "loss")
    unit = "" if steps and "nll" not in steps[0].get("terms", {"nll": 0.0}) else ", nats per token"
    curves = [
        Series("training loss", loss, "raw"),
        Series("smoothed", smooth(loss), "smooth"),
        Series("held-out loss", _points(evals, "loss"), "dots"),
    ]
    y_label = f"loss{unit}"
    charts = {"loss": line_chart(curves, x_label="step", y_label=y_label, width=1040, height=380, may_be_log=True)}
    for name, label in (
        ("learning_rate", "learning rate"),
        ("grad_norm", "gradient norm"),
        ("tokens_per_s", "tokens per second"),
    ):
        series = Series(label, _points(steps, name), "plain")
        charts[name] = line_chart([series], x_label="step", y_label=label, width=340, height=230, y_from_zero=True)
    return charts


def _parts_charts(steps: Sequence[Fields], evals: Sequence[Fields]) -> dict[str, str]:
    """{name: chart} of each term of the loss, where there are several, and of each metric of the objective."""
    lines = [*steps, *evals]
    terms = dict.fromkeys(name for line in lines for name in line.get("terms", {}))
    names = dict.fromkeys(terms, "terms") if len(terms) > 1 else {}
    names |= {name: "metrics" for line in lines for name in line.get("metrics", {})}
    charts = {}
    for name, place in names.items():
        points: dict[str, list[Point]] = {"step": [], "eval": []}
        for line in lines:
            if (value := line.get(place, {}).get(name)) is not None:
                points[line["kind"]].append((float(line["step"]), float(value)))
        series = [Series("training", points["step"], "plain"), Series("held-out", points["eval"], "dots")]
        charts[name] = line_chart(series, x_label="step", y_label=name, width=340, height=230)
    return charts


def _set_charts(evals: Sequence[Fields]) -> dict[str, str]:
    """{SET/MEASURE: chart} of the sets of evaluate.sets: the loss, terms where there are several, and metrics."""
    points: dict[str, list[Point]] = {}
    for line in evals:
        for name, found in line.get("sets", {}).items():
            terms = found["terms"] if len(found["terms"]) > 1 else {}
            for measure, value in {"loss": found["loss"], **terms, **found["metrics"]}.items():
                points.setdefault(f"{name}/{measure}", []).append((float(line["step"]), float(value)))
    return {
        name: line_chart([Series(name, found, "dots")], x_label="step", y_label=name, width=340, height=230)
        for name, found in points.items()
    }


def _tiles(facts: ReportFacts, steps: Sequence[Fields], before: Fields, after: Fields) -> list[tuple[str, str, str]]:
    """(label, value, remark) of the numbers on top."""
    tiles = []
    for row in _headlines(rows_of(before, after)):
        was = f"before {row.before.partition(' (')[0]}" if row.before != "-" else ""
        tiles.append((row.title, row.after.partition(" (")[0], was))
    if steps:
        usual = steps if len(steps) <= MOST_USUAL else random.Random(0).sample(steps, MOST_USUAL)
        speed = median(float(line["tokens_per_s"]) for line in usual)
        tokens = steps[-1].get("total_tokens")
        tiles.append(("steps", f"{steps[-1]['step']:,}", f"{tokens:,} tokens" if tokens is not None else ""))
        tiles.append(("tokens per second", f"{speed:,.0f}", _cost_remark(usual)))
        tiles += _hardware_tiles(facts.metrics, steps, usual)
    return tiles


def _cost_remark(steps: Sequence[Fields]) -> str:
    """Where the median step's time went."""
    if any("forward_backward_s" not in line for line in steps):
        return "median step"
    waits, passes, updates = (
        median([line[name] / line["step_s"] for line in steps])
        for name in ("data_wait_s", "forward_backward_s", "update_s")
    )
    return f"median step: {passes:.0%} passes, {updates:.0%} update, {waits:.1%} waiting for data"


def _hardware_tiles(
    metrics: Sequence[Fields], steps: Sequence[Fields], usual: Sequence[Fields]
) -> list[tuple[str, str, str]]:
    """MFU and peak memory, where the run has recorded them. usual: of the steps."""
    starts = [line for line in metrics if line["kind"] == "start"]
    shares = [float(line["mfu"]) for line in usual if line.get("mfu") is not None]
    tiles = []
    if starts and shares:
        tiles.append(("model FLOPs utilisation", f"{median(shares):.1%}", f"of the {starts[-1]['peak_basis']}"))
    rows = f"{starts[-1]['micro_batch_rows']} rows a forward pass" if starts else ""
    for name, title, told in (
        ("peak_bytes", "peak memory of a worker", rows),
        ("reserved_bytes", "held by the allocator", "what lies unused between tensors, too"),
        ("device_bytes", "in use on the fullest GPU", "by all processes, CUDA and NCCL too"),
    ):
        if sizes := [int(line[name]) for line in steps if line.get(name)]:
            tiles.append((title, f"{max(sizes) / 2**30:.2f} GiB", told))
    return tiles


def _headlines(rows: Sequence[Row]) -> list[Row]:
    """The first measure of answers and the first of rows that there are after training."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.after != "-":
            found.setdefault(MEASURES[row.measure].wants, row)
    return [found[wants] for wants in ("answers", "rows") if wants in found]


def _samples(before: Fields, after: Fields) -> list[dict[str, Any]]:
    """Sample prompts of all sets with both models' answers, matched by prompt."""
    shown = []
    for name in dict.fromkeys((*before, *after)):
        first, last = (found.get(name, {}).get("samples", ()) for found in (before, after))
        earlier = {sample["prompt"]: sample["answer"] for sample in first}
        shown += [
            {
                "prompt": sample["prompt"],
                "reference": sample["reference"],
                "before": earlier.get(sample["prompt"]),
                "after": sample["answer"] if last else None,
                "right": bool(last) and sample["answer"].strip() == sample["reference"].strip(),
            }
            for sample in last or first
        ]
    return shown
