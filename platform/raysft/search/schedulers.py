"""Which trials go on: pure decisions over what trials have reported. One table of names.

A curve is [(step, value)...] with steps rising and values where less is better. Every decision is a function of the
curves alone, so that after a restart it comes out the same from the stored ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from statistics import median

from raysft.recipe.tune import Scheduler

Curve = Sequence[tuple[int, float]]
Curves = Mapping[int, Curve]

MEDIAN_TRIALS = 3
"""Others that must have come as far before the median is believed."""


class TrialVerdict(Enum):
    """What becomes of a trial that has just reported."""

    GO_ON = "go on"
    STOP = "stop"
    """It is judged; another takes its place."""
    PAUSE = "pause"
    """It commits and waits for the others of its round."""


def judge(rules: Scheduler, mine: int, curves: Curves) -> TrialVerdict:
    """What trial `mine` should do after its newest report. One at its end by then has finished all the same."""
    return TABLE[rules.kind](rules, mine, curves)


def _none(rules: Scheduler, mine: int, curves: Curves) -> TrialVerdict:
    return TrialVerdict.GO_ON


def _asha(rules: Scheduler, mine: int, curves: Curves) -> TrialVerdict:
    """Asynchronous successive halving, stopping (Li et al. 2020, arXiv:1810.05934): at a rung stay the best
    1 / reduction of all that have reached it so far; while fewer have, the best one."""
    return _halve(rules, mine, curves, _first_rung(rules))


def _hyperband(rules: Scheduler, mine: int, curves: Curves) -> TrialVerdict:
    """Several ASHA brackets, each with a later first rung (Li et al. 2018); trials take them in turns and compete
    within their own. With the searcher tpe this is BOHB's scheme (Falkner et al. 2018)."""
    bracket = mine % BRACKETS
    peers = {number: curve for number, curve in curves.items() if number % BRACKETS == bracket}
    return _halve(rules, mine, peers, _first_rung(rules) * rules.reduction**bracket)


BRACKETS = 3


def _halve(rules: Scheduler, mine: int, curves: Curves, first: int) -> TrialVerdict:
    step, before = curves[mine][-1][0], curves[mine][-2][0] if len(curves[mine]) > 1 else -1
    rung = first
    while rung <= step:
        if before < rung:
            reached = [value for curve in curves.values() if (value := at(curve, rung)) is not None]
            better = sum(value < curves[mine][-1][1] for value in reached)
            if better >= max(1, len(reached) // rules.reduction):
                return TrialVerdict.STOP
        rung *= rules.reduction
    return TrialVerdict.GO_ON


def _median(rules: Scheduler, mine: int, curves: Curves) -> TrialVerdict:
    """Stop when the best so far is worse than the median of the others' means up to this step (Golovin et al. 2017,
    Vizier, 3.1)."""
    step = curves[mine][-1][0]
    if step < _first_rung(rules):
        return TrialVerdict.GO_ON
    others = [curve for number, curve in curves.items() if number != mine and curve and curve[-1][0] >= step]
    if len(others) < MEDIAN_TRIALS:
        return TrialVerdict.GO_ON
    means = []
    for curve in others:
        values = [value for at_step, value in curve if at_step <= step]
        means.append(sum(values) / len(values))
    return TrialVerdict.STOP if min(value for _, value in curves[mine]) > median(means) else TrialVerdict.GO_ON


def _pbt(rules: Scheduler, mine: int, curves: Curves) -> TrialVerdict:
    """Wait for the population at the end of each round; pbt_copies() says what follows."""
    step, before = curves[mine][-1][0], curves[mine][-2][0] if len(curves[mine]) > 1 else 0
    gap = _first_rung(rules)
    return TrialVerdict.PAUSE if step // gap > before // gap else TrialVerdict.GO_ON


def pbt_copies(rules: Scheduler, curves: Curves, draw: Callable[[int], int]) -> dict[int, int]:
    """{trial: the one it copies} of a population that waits at one step (Jaderberg et al. 2017, truncation).

    The worst `quantile` copy one of the best; draw(n) is a number below n.
    """
    ranked = sorted(curves, key=lambda number: (curves[number][-1][1], number))
    count = max(1, math.floor(len(ranked) * rules.quantile))
    if len(ranked) < 2 * count:
        return {}
    return {number: ranked[draw(count)] for number in ranked[-count:]}


def at(curve: Curve, step: int) -> float | None:
    """The first value at `step` or later; None when the curve does not reach it."""
    return next((value for reached, value in curve if reached >= step), None)


def _first_rung(rules: Scheduler) -> int:
    assert rules.min_steps is not None, "settled by with_rungs()"
    return rules.min_steps


def with_rungs(rules: Scheduler, every_steps: int | None) -> Scheduler:
    """The rules with min_steps settled: by default the step of the first report."""
    return rules.model_copy(update={"min_steps": rules.min_steps or every_steps or 1})


TABLE: dict[str, Callable[[Scheduler, int, Curves], TrialVerdict]] = {
    "asha": _asha,
    "hyperband": _hyperband,
    "median": _median,
    "pbt": _pbt,
    "none": _none,
}
