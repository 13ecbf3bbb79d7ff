"""The one law by which sums become a loss, in training and in evaluation.

loss = sum over the terms of weight x (sum of the term / its units). Each term is divided by its own units, and only
after everything was added up: over micro-batches, ranks and, for held-out rows, batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raysft.objectives.base import Term


@dataclass(frozen=True)
class Sums:
    """What may be added up: of a micro-batch, a rank, a global step or a batch of held-out rows."""

    terms: Mapping[str, float]
    """{term: its sum}, without its weight."""
    units: Mapping[str, float]
    """{term: what its sum is divided by}."""
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """{metric: (sum, count)}."""
    counts: Sequence[float] = ()
    """What measures that are no means are computed of (objectives/objective.py, Counted)."""


@dataclass(frozen=True)
class FirstRows:
    """What training computes of the first few rows of a set, for whoever computes it of the exported model."""

    rows: int
    nll: float
    """Minus the log-likelihood of their target tokens, nats a token."""


@dataclass(frozen=True)
class Reduced:
    """A loss and what it is made of."""

    loss: float
    """Sum of weight x term. NaN where no term has a unit."""
    terms: dict[str, float]
    """{term: its sum / its units}, without its weight. A term that has no units is left out: it adds nothing."""
    metrics: dict[str, float]
    """{metric: sum / count}. A metric that counts nothing is left out."""
    units: dict[str, float]
    """{term: units}."""
    target_tokens: float
    """Weighted target tokens, where a term is a mean over them; 0.0 where none is."""
    first: FirstRows | None = None
    """Where these are held-out data, and a model that writes is exported."""


def added(parts: Iterable[Sums], terms: Sequence[Term]) -> Sums:
    """One sum of many."""
    sums, units = dict.fromkeys((term.name for term in terms), 0.0), dict.fromkeys((term.name for term in terms), 0.0)
    metrics: dict[str, tuple[float, float]] = {}
    counts: tuple[float, ...] = ()
    for part in parts:
        for term in terms:
            sums[term.name] += part.terms[term.name]
            units[term.name] += part.units[term.name]
        for name, (value, count) in part.metrics.items():
            before = metrics.get(name, (0.0, 0.0))
            metrics[name] = (before[0] + value, before[1] + count)
        counts = tuple(map(sum, zip(counts or (0.0,) * len(part.counts), part.counts, strict=True)))
    return Sums(sums, units, metrics, counts)


def reduced(parts: Iterable[Sums], terms: Sequence[Term]) -> Reduced:
    """Add up, divide each term by its units, weigh, and only then add the terms."""
    total = added(parts, terms)
    means = {term.name: _mean(total.terms[term.name], total.units[term.name]) for term in terms}
    found = [term for term in terms if total.units[term.name] != 0]
    targets = next((total.units[term.name] for term in terms if term.unit == "target_token"), 0.0)
    return Reduced(
        loss=sum((term.weight * means[term.name] for term in found), 0.0) if found else math.nan,
        terms={term.name: means[term.name] for term in found},
        metrics={name: value / count for name, (value, count) in total.metrics.items() if count},
        units=dict(total.units),
        target_tokens=targets,
    )


def _mean(value: float, units: float) -> float:
    return value / units if units != 0 else math.nan
