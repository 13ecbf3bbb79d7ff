"""CMA-ES told anew from the ended trials: it stays in its space, goes on after a restart, and finds a minimum."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import TypeAdapter

from raysft.recipe.tune import Distribution
from raysft.search.cmaes_sampler import propose
from raysft.search.space import contains

FIELDS: dict[str, dict[str, Any]] = {
    "rate": {"distribution": "loguniform", "low": 1e-6, "high": 1e-1},
    "beta": {"distribution": "uniform", "low": 0.5, "high": 0.75},
    "rank": {"distribution": "int", "low": 2, "high": 31, "step": 3},
    "size": {"distribution": "int", "low": 1, "high": 1024, "log": True},
}
SPACE = {name: TypeAdapter(Distribution).validate_python(field) for name, field in FIELDS.items()}


def far(point: dict[str, Any]) -> float:
    """Least at 1e-3, 0.6, 20, 64; each coordinate as a share of its range."""
    return (
        (math.log10(point["rate"] / 1e-3) / 5) ** 2
        + ((point["beta"] - 0.6) / 0.25) ** 2
        + ((point["rank"] - 20) / 29) ** 2
        + (math.log2(point["size"] / 64) / 10) ** 2
    )


def played(count: int, told: list[Any] | None = None) -> list[Any]:
    told = list(told or [])
    while len(told) < count:
        point = propose(SPACE, told, seed=len(told))
        told.append((point, far(point)))
    return told


@pytest.fixture(scope="module")
def told() -> list[Any]:
    return played(120)


def test_every_proposal_lies_in_its_space(told: list[Any]) -> None:
    for point, _ in told:
        assert point.keys() == SPACE.keys()
        assert all(contains(SPACE[name], value) for name, value in point.items()), point
        assert type(point["rank"]) is type(point["size"]) is int
        assert (point["rank"] - 2) % 3 == 0


def test_it_comes_nearer(told: list[Any]) -> None:
    first, last = (sorted(value for _, value in part)[len(part) // 2] for part in (told[:24], told[-24:]))
    assert last < 0.25 * first


def test_a_restart_proposes_what_an_unbroken_search_does(told: list[Any]) -> None:
    assert played(20, told[:11]) == told[:20]


def test_trials_that_say_nothing_are_left_out(told: list[Any]) -> None:
    other = [({"rate": 1e-3}, 0.0), (told[0][0], math.nan), (told[1][0], math.inf)]
    assert propose(SPACE, [*other, *told[:24]], 7) == propose(SPACE, told[:24], 7)


def test_generations_count_whole(told: list[Any]) -> None:
    """4 + floor(3 ln 4) = 8 trials; what of the next has ended changes nothing yet."""
    assert propose(SPACE, told[:8], 7) == propose(SPACE, told[:15], 7) != propose(SPACE, told[:16], 7)
