"""CMA-ES over a space of numbers (Hansen & Ostermeier 2001; package `cmaes`), told anew from the ended trials.

Optuna's own sampler keeps its state as a pickle in the database, which is never loaded here. What a generation learns
does not depend on random numbers, so the state follows from the trials alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cmaes
import numpy as np

from raysft.recipe.tune import Choice, Distribution, Int, LogUniform
from raysft.search.space import Point, Space

SIGMA = 0.25
"""First standard deviation, as a share of each range."""


def propose(space: Space, told: Sequence[tuple[Point, float]], seed: int) -> Point:
    """The next point. told: ended trials in their order, with a value where less is better; they count in generations
    of the population's size, 4 + floor(3 ln n)."""
    size = len(space)
    state = cmaes.CMA(mean=np.full(size, 0.5), sigma=SIGMA, bounds=np.array([[0.0, 1.0]] * size), seed=seed)
    known = [
        (np.array([_to_unit(distribution, point[name]) for name, distribution in space.items()]), value)
        for point, value in told
        if point.keys() == space.keys() and math.isfinite(value)
    ]
    for start in range(0, len(known) - state.population_size + 1, state.population_size):
        state.tell(known[start : start + state.population_size])
    return {name: _from_unit(d, float(unit)) for (name, d), unit in zip(space.items(), state.ask(), strict=True)}


def _to_unit(distribution: Distribution, value: float) -> float:
    low, high = _bounds(distribution)
    return ((math.log(value) if _is_log(distribution) else value) - low) / (high - low)


def _from_unit(distribution: Distribution, unit: float) -> float | int:
    assert not isinstance(distribution, Choice), "refused by tune_checks.py"
    low, high = _bounds(distribution)
    value = low + unit * (high - low)
    value = math.exp(value) if _is_log(distribution) else value
    if isinstance(distribution, Int):
        most = (distribution.high - distribution.low) // distribution.step
        return distribution.low + min(max(round((value - distribution.low) / distribution.step), 0), most) * (
            distribution.step
        )
    return min(max(value, distribution.low), distribution.high)


def _bounds(distribution: Distribution) -> tuple[float, float]:
    assert not isinstance(distribution, Choice), "refused by tune_checks.py"
    low, high = float(distribution.low), float(distribution.high)
    return (math.log(low), math.log(high)) if _is_log(distribution) else (low, high)


def _is_log(distribution: Distribution) -> bool:
    return isinstance(distribution, LogUniform) or (isinstance(distribution, Int) and distribution.log)
