"""What can be measured of a model: its name, which way is better, how a value is written. One table, pure.

A full name is SET/NAME: `held_out/loss` of the held-out part of the data, `gsm8k/exact_match` of a set that
`evaluate.sets` names. MEASURES is what tables before and after training show: in reports, cards, lines and the
API. An objective's terms and metrics (recipe/sections/objective.py) are measures of rows while it trains:
searches and the best commit go by them, curves show them. Records that are older than sets: OLD_NAMES here,
run/evaluations.py, and the held-out loss of train/commits/writer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raysft.metrics import METRICS
from raysft.metrics.base import Mode, percent

HELD_OUT = "held_out"
"""The set of `data.eval` or `data.eval_fraction`, which needs no name in a recipe."""

HELD_OUT_LOSS = f"{HELD_OUT}/loss"
"""What searches and the best commit go by where nothing else is said."""

OLD_NAMES = {"held_out_loss": HELD_OUT_LOSS}
"""{name in recipes, studies and tables of earlier versions: full name}."""


def _number(value: float) -> str:
    return f"{value:,.4f}" if value < 1000 else f"{value:,.0f}"


@dataclass(frozen=True)
class Measure:
    """One line of tables that tell what a model is like."""

    title: str
    """In a few words."""
    better: Mode | None
    """None: neither way is by itself."""
    wants: Literal["rows", "answers"]
    """rows: tokens of the set go through the model. answers: it answers the set's prompts (metrics/), or labels its
    texts."""
    unit: str = ""
    """Empty: a share or a plain number."""
    shown: Callable[[float], str] = _number
    packages: tuple[str, ...] = ()
    """Modules of the extra `metrics` that it is computed with."""


MEASURES: dict[str, Measure] = {
    "loss": Measure("loss", "min", "rows", "nats per target token"),
    "perplexity": Measure("perplexity", "min", "rows"),
    "recall_at_1": Measure("recall@1", "max", "rows", shown=percent),
    "recall_at_10": Measure("recall@10", "max", "rows", shown=percent),
    "mrr": Measure("mean reciprocal rank", "max", "rows"),
    **{
        name: Measure(metric.title, metric.better, "answers", shown=metric.shown, packages=metric.packages)
        for name, metric in METRICS.items()
    },
    "ece": Measure("calibration error (ECE)", "min", "answers", shown=percent),
    "brier": Measure("Brier score", "min", "answers"),
}
"""{name: measure} of every model, whatever it was trained for, in the order of tables."""

OF_ANSWERS = tuple(METRICS)


@dataclass(frozen=True)
class Row:
    """A measure of one set before and after training."""

    set: str
    measure: str
    title: str
    unit: str
    before: str
    """`-`: not measured."""
    after: str
    change: str = ""
    """After minus before on the same prompts, with its interval and p; empty: it was not tested."""
    how: str = ""
    """How it was computed, where that changes the number."""


def rows_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Row]:
    """Everything that was measured at least once, in the order of tables. before, after: {set: its record}, as
    evaluate/evaluation.py makes them."""
    sets, rows = (before, after), []
    for name in dict.fromkeys((*sets[0], *sets[1])):
        found = [one.get(name, {}) for one in sets]
        for measure, traits in MEASURES.items():
            estimates = [one.get("metrics", {}).get(measure) for one in found]
            if any(estimates):
                first, last = ("-" if one is None else shown(measure, one) for one in estimates)
                title = title_of(name, measure, any(one.get("of_pairs") for one in found))
                change = changed(measure, found[1].get("changes", {}).get(measure))
                how = next(one.get("how", "") for one in reversed(estimates) if one is not None)
                rows.append(Row(name, measure, title, traits.unit, first, last, change, how))
    return rows


def changed(name: str, change: Mapping[str, float] | None) -> str:
    """`+12.5% (4.0% to 21.0%), p = 0.012`; empty: not tested."""
    if change is None:
        return ""
    write = MEASURES[name].shown
    difference, low, high = (
        ("-" if value < 0 else "+") + write(abs(value))
        for value in (change["difference"], change["low"], change["high"])
    )
    p = f"p = {change['p']:.3f}" if change["p"] >= 0.001 else "p < 0.001"
    return f"{difference} ({low} to {high}), {p}"


def shown(name: str, estimate: Mapping[str, Any]) -> str:
    """`91.0% (84.2% to 95.0%)`: a value with its interval, where it has one."""
    write = MEASURES[name].shown
    low, high = estimate.get("low"), estimate.get("high")
    between = "" if low is None or high is None else f" ({write(low)} to {write(high)})"
    return write(estimate["value"]) + between


def title_of(name: str, measure: str, of_pairs: bool) -> str:
    """`held-out loss`, `gsm8k: exact match of greedy answers`; of pairs what was counted, too."""
    traits = MEASURES[measure]
    title = traits.title + (" of the preferred answers" if of_pairs and traits.wants == "rows" else "")
    if name != HELD_OUT:
        return f"{name}: {title}"
    return f"held-out {title}" if traits.wants == "rows" else title


def full_name(measure: str) -> str:
    """SET/NAME of a measure as somebody wrote it."""
    return OLD_NAMES.get(measure, measure)


def full_names(measures: Iterable[str]) -> tuple[str, ...]:
    """Those of several."""
    return tuple(map(full_name, measures))
