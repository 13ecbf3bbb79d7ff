"""Which rank is slow: by hand-made times, and told once by the hook."""

from __future__ import annotations

import random

import pytest
from fakes import step_info

from raysft.train.watch.straggler import Slow, StragglerWatch, slow_ranks


def times(ranks: int, steps: int, slow: dict[int, float], base_s: float = 0.2) -> list[tuple[float, ...]]:
    """Noise of 20%; rank r takes slow[r] times as long."""
    draw = random.Random(0)
    return [tuple(base_s * draw.uniform(0.9, 1.1) * slow.get(r, 1.0) for r in range(ranks)) for _ in range(steps)]


@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
@pytest.mark.parametrize("slow", [0, 1])
def test_a_slow_rank_is_named_among_any_number(ranks: int, slow: int) -> None:
    (found,) = slow_ranks(times(ranks, 16, {slow: 2.0}))
    assert found.rank == slow
    assert found.own_s == pytest.approx(0.4, rel=0.1)
    assert found.others_s == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (times(8, 16, {}), "noise"),
        (times(8, 16, {3: 1.3}), "below the factor"),
        (times(8, 16, {3: 3.0}, base_s=0.01), "a few milliseconds"),
        (times(8, 10, {}) + times(8, 6, {3: 9.0}), "slow in less than half of the steps"),
        (times(1, 16, {0: 9.0}), "nobody to compare with"),
    ],
)
def test_nobody_is_named_for(steps: list[tuple[float, ...]], why: str) -> None:
    assert slow_ranks(steps) == [], why


def test_two_ranks_of_a_slow_replica_are_both_named() -> None:
    assert [slow.rank for slow in slow_ranks(times(8, 16, {2: 2.5, 3: 2.5}))] == [2, 3]


def test_each_is_told_once_after_a_window() -> None:
    told: list[tuple[Slow, int]] = []
    watch = StragglerWatch(lambda slow, step: told.append((slow, step)))
    series = times(4, 32, {}) + times(4, 48, {1: 2.0})
    for step, rank_s in enumerate(series, 1):
        watch(step_info(step, rank_s=rank_s))
    assert [(slow.rank, step) for slow, step in told] == [(1, 48)]
    for step in range(200):
        StragglerWatch(lambda slow, step: told.append((slow, step)))(step_info(step))  # an engine that tells nothing
    assert len(told) == 1
