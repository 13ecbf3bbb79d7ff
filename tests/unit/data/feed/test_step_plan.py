"""Which rows make a step: each once an epoch, by seed and step alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from raysft.data.feed.step_plan import Order, StepPlan


def plan_of(num_rows: int, rows_per_step: int, seed: int) -> StepPlan:
    """Of rows that all cost the same."""
    return StepPlan(Order(rows_per_step, seed), (num_rows,), np.full(num_rows, 100))


@pytest.mark.parametrize(("num_rows", "rows_per_step"), [(1, 1), (7, 3), (12, 4), (100, 8), (5, 9)])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_each_row_comes_exactly_once_an_epoch(num_rows: int, rows_per_step: int, seed: int) -> None:
    plan = plan_of(num_rows, rows_per_step, seed)
    assert plan.steps_per_epoch == -(-num_rows // rows_per_step)
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        rows = [plan.rows(step) for step in steps]
        assert sorted(np.concatenate(rows).tolist()) == list(range(num_rows))
        assert {len(r) for r in rows[:-1]} <= {rows_per_step}
        assert 0 < len(rows[-1]) <= rows_per_step
        assert {plan.epoch(step) for step in steps} == {epoch}


def test_a_plan_is_a_function_of_seed_and_step_alone() -> None:
    plan, again = plan_of(50, 8, 3), plan_of(50, 8, 3)
    forwards = [plan.rows(step).tolist() for step in range(20)]
    backwards = [again.rows(step).tolist() for step in reversed(range(20))]
    assert forwards == backwards[::-1]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {(seed, epoch): tuple(plan_of(40, 40, seed).rows(epoch)) for seed in range(20) for epoch in range(20)}
    assert len(set(orders.values())) == 400
    assert tuple(range(40)) not in orders.values()


def test_the_order_is_pinned() -> None:
    """A change of this order breaks the resume of every run that is under way."""
    assert plan_of(8, 4, 0).rows(0).tolist() + plan_of(8, 4, 0).rows(1).tolist() == [5, 1, 2, 6, 7, 4, 0, 3]


def test_every_row_stands_anywhere_equally_often() -> None:
    plan = plan_of(10, 10, 0)
    first = Counter(int(plan.rows(epoch)[0]) for epoch in range(2000))
    assert len(first) == 10
    assert max(abs(count - 200) for count in first.values()) < 80  # 6 sigma
