"""A metric's value over answers with its 95% interval, and whether two models' answers differ in it.

The same answers give the same numbers on every machine: resampling has a seed of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from raysft.metrics.base import Answer, Estimate, Metric, scorers_of

Z95 = 1.959963984540054
"""Half the width of a 95% interval, in standard deviations of a normal distribution."""
RESAMPLES = 1000
"""Bootstrap samples of an interval."""
SWAPS = 2000
"""Random assignments of a paired test: the smallest p is 1 / 2001."""
SEED = 12345


@dataclass(frozen=True)
class Change:
    """Second model minus first, on the same prompts."""

    difference: float
    low: float
    """Ends of the 95% interval of the difference, by paired bootstrap."""
    high: float
    p: float
    """Two-sided, by paired approximate randomisation: how often answers that are swapped between the models at random
    differ as much (Riezler and Maxwell 2005)."""
    count: int
    """Pairs of answers."""


def estimate(metric: Metric, answers: Sequence[Answer]) -> Estimate:
    """The value over these answers, of which there is at least one."""
    rows = _rows(metric, answers)
    totals = rows.sum(axis=0)
    low, high = None, None
    if metric.interval == "wilson":
        low, high = wilson(round(float(totals[0])), len(answers))
    elif metric.interval == "bootstrap":
        low, high = bootstrap(rows, lambda sums: metric.value(sums.tolist()))
    value = metric.value(totals.tolist())
    return Estimate(value, len(answers), low, high, metric.how(answers), metric.details(answers))


def bootstrap(
    rows: NDArray[np.float64], value: Callable[[NDArray[np.float64]], float]
) -> tuple[float, float] | tuple[None, None]:
    """95% interval of the value of sums of rows [parts, numbers], by bootstrap over parts.

    None of fewer than two, or where all samples have one value: of parts that are alike a bootstrap knows nothing.
    """
    ends = _ends([value(sums) for sums in _resampled(rows)]) if len(rows) > 1 else (0.0, 0.0)
    return ends if ends[0] < ends[1] else (None, None)


def ratio_interval(parts: Sequence[tuple[float, float]]) -> tuple[float, float] | tuple[None, None]:
    """95% interval of a sum over another, by bootstrap over what both are sums of: (above, below) of each part.

    None of fewer than two parts, or where parts may be drawn that have nothing below.
    """
    rows = np.array(parts, dtype=np.float64).reshape(-1, 2)
    sums = _resampled(rows) if len(rows) > 1 else []
    if not sums or any(total[1] == 0 for total in sums):
        return None, None
    return _ends([float(total[0] / total[1]) for total in sums])


def compare(metric: Metric, first: Sequence[Answer], second: Sequence[Answer]) -> Change | None:
    """Two models' answers to the same prompts, in the same order.

    None: the metric has no interval, there are fewer than two pairs, the prompts or references are not the same, or
    they are not scored, all of them by one scorer, where the metric needs scores.
    """
    same = [(a.prompt, a.reference) for a in first] == [(b.prompt, b.reference) for b in second]
    if metric.needs_scores:
        by = scorers_of(metric.name, [*first, *second])
        same = same and len(by) == 1 and "" not in by
    if metric.interval == "none" or len(first) < 2 or not same:
        return None
    return paired(_rows(metric, first), _rows(metric, second), lambda sums: metric.value(sums.tolist()))


def paired(
    one: NDArray[np.float64], other: NDArray[np.float64], value: Callable[[NDArray[np.float64]], float]
) -> Change:
    """Two models' rows of the same parts, in the same order: [parts, numbers], two parts or more, whose sums have a
    value."""
    width = one.shape[1]
    totals = one.sum(axis=0), other.sum(axis=0)

    def difference(sums: NDArray[np.float64], others: NDArray[np.float64]) -> float:
        return value(others) - value(sums)

    found = difference(*totals)
    low, high = _ends([difference(sums[:width], sums[width:]) for sums in _resampled(np.hstack((one, other)))])
    random, gaps, as_far = np.random.default_rng(SEED), other - one, 0
    for _ in range(SWAPS):
        moved = random.integers(0, 2, len(gaps)).astype(np.float64) @ gaps
        as_far += abs(difference(totals[0] + moved, totals[1] - moved)) >= abs(found) - 1e-12
    return Change(found, low, high, (1 + as_far) / (1 + SWAPS), len(one))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p that two models are as often right, by the parts that only one of them has right: each falls
    to either with a half (McNemar 1947; Dietterich 1998)."""
    count = only_first + only_second
    below = sum(math.comb(count, number) for number in range(min(only_first, only_second) + 1))
    return min(1.0, float(Fraction(2 * below, 2**count)))


def wilson(right: int, total: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927; Brown, Cai and DasGupta 2001): sound at 0, at 1 and of few, too."""
    share, z2 = right / total, Z95 * Z95
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def _rows(metric: Metric, answers: Sequence[Answer]) -> NDArray[np.float64]:
    """[answers, numbers of each]."""
    return np.array(metric.statistics(answers), dtype=np.float64).reshape(len(answers), -1)


def _resampled(rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Sums over answers drawn with replacement, RESAMPLES times (Efron 1979)."""
    random, count = np.random.default_rng(SEED), len(rows)
    return [
        np.bincount(random.integers(0, count, count), minlength=count).astype(np.float64) @ rows
        for _ in range(RESAMPLES)
    ]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
