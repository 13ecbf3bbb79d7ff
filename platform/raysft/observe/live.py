"""A storage path as people watch it: its runs and sweeps on one page, a sweep's trials on another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from raysft.observe.charts import Point, Series, line_chart
from raysft.observe.goodput import duration_text
from raysft.observe.pages import page_template

REFRESH_S = 5
"""After which a browser reads a page again."""
MOST_CURVES = 64
"""Runs whose curves are drawn; of more the newest."""


@dataclass(frozen=True)
class RunRow:
    """What is told of a run in one line."""

    name: str
    status: str
    """As run/run_state.py names it."""
    step: int
    """Newest that is recorded; 0: none."""
    total_steps: int
    """0: not known."""
    loss: float | None
    """Median of the newest steps, nats per token."""
    held_out: float | None
    """Newest held-out loss."""
    tokens_per_s: float | None
    seen_at: float
    """Unix time of the newest step; 0: none."""
    left_s: float | None
    """Seconds to the end, at the pace of the newest steps; None: not running, or not known."""
    incidents: int
    curve: Sequence[Point]
    """(step, loss), few of them."""


@dataclass(frozen=True)
class SweepRow:
    """A search by the runs of its trials."""

    name: str
    trials: int
    running: int
    best: float | None
    """Lowest newest held-out loss of a trial."""


def render_home(storage: str, runs: Sequence[RunRow], sweeps: Sequence[SweepRow], now: float) -> str:
    """The page of all runs; those that run first, then the newest."""
    order = sorted(runs, key=lambda run: (run.status != "running", -run.seen_at, run.name))
    return _page(storage, order, sweeps, now, home="", title="")


def render_sweep(storage: str, sweep: str, trials: Sequence[RunRow], now: float) -> str:
    """The page of one sweep's trials, the best first."""
    order = sorted(trials, key=lambda run: (run.held_out is None, run.held_out or 0.0, run.name))
    return _page(storage, order, [], now, home="/", title=sweep)


def _page(
    storage: str, runs: Sequence[RunRow], sweeps: Sequence[SweepRow], now: float, *, home: str, title: str
) -> str:
    drawn = [run for run in runs if run.curve][:MOST_CURVES]
    series = [Series(run.name, run.curve, f"run c{index % 8}") for index, run in enumerate(drawn)]
    chart = line_chart(
        series, x_label="step", y_label="loss, nats per token", width=1040, height=320, may_be_log=True
    )
    return page_template("live.html").render(
        title=title,
        storage=storage,
        home=home,
        refresh_s=REFRESH_S,
        rows=[(run, _cells(run, now)) for run in runs],
        styles={run.name: f"run c{index % 8}" for index, run in enumerate(drawn)},
        sweeps=[(sweep, "-" if sweep.best is None else f"{sweep.best:.4g}") for sweep in sweeps],
        chart=Markup(chart) if series else "",
    )


def _cells(run: RunRow, now: float) -> list[tuple[str, str]]:
    """(title, text) of the numbers of a run."""
    whole = f" of {run.total_steps:,}" if run.total_steps else ""
    return [
        ("step", f"{run.step:,}{whole}" if run.step else "-"),
        ("loss", "-" if run.loss is None else f"{run.loss:.4g}"),
        ("held out", "-" if run.held_out is None else f"{run.held_out:.4g}"),
        ("tokens/s", "-" if run.tokens_per_s is None else f"{run.tokens_per_s:,.0f}"),
        ("left", "-" if run.left_s is None else duration_text(run.left_s)),
        ("newest step", f"{duration_text(max(0.0, now - run.seen_at))} ago" if run.seen_at else "-"),
        ("incidents", f"{run.incidents:,}"),
    ]
