"""Rows of a finished store: those of the plan, read when they are asked for, and the first ones in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import FakeStore, make_recipe

from raysft.data.feed.rows import StoredRows, row_order
from raysft.data.feed.step_plan import Order

LENGTHS = [[9, 14, 5], [30], [3, 20], [12, 12], [2], [7, 7, 7], [25, 3]]


class Counted(FakeStore):
    """Remembers which rows were read."""

    reads: list[int]

    def read_rows(self, indices: Any) -> Any:
        self.reads += list(indices)
        return super().read_rows(indices)


@pytest.fixture
def store() -> Counted:
    made = Counted(LENGTHS)
    made.reads = []
    return made


def rows_of(store: Counted, order: Order) -> StoredRows:
    given: Any = store
    return StoredRows(given, order)


def test_a_step_knows_its_sizes_and_reads_only_what_is_asked_for(store: Counted) -> None:
    order = Order(3, 5)
    rows = rows_of(store, order)
    for number in range(6):
        step, plan = rows.step(number), store.plan(3, 5).rows(number).tolist()
        assert step.tokens.tolist() == [sum(LENGTHS[row]) for row in plan]
        assert step.squares.tolist() == [sum(n * n for n in LENGTHS[row]) for row in plan]
        assert step.cursor == {}
        assert store.reads == []
        places = [len(plan) - 1, 0]
        read = step.read(places)
        assert store.reads == [plan[place] for place in places]
        assert [row.num_tokens for row in read] == [sum(LENGTHS[plan[place]]) for place in places]
        store.reads.clear()


def test_the_first_rows_come_in_order_in_batches_of_a_step(store: Counted) -> None:
    rows = rows_of(store, Order(3, 5))
    for wanted, sizes in ((0, []), (2, [2]), (3, [3]), (7, [3, 3, 1]), (99, [3, 3, 1])):
        store.reads.clear()
        batches = rows.first(wanted)
        assert [len(batch.tokens) for batch in batches] == sizes
        for batch in batches:
            batch.read(range(len(batch.tokens)))
        assert store.reads == list(range(min(wanted, 7)))


@pytest.mark.parametrize(
    ("data", "windowed", "balanced"),
    [
        ({}, False, True),
        ({"order": "windowed"}, True, True),
        ({"order": "windowed", "mixture": {"curriculum": "length"}}, True, False),
    ],
)
def test_the_order_that_a_recipe_asks_for(data: dict[str, Any], windowed: bool, balanced: bool) -> None:
    found = row_order(make_recipe(data=data, seed=9, train={"rows_per_step": 6}))
    assert found == Order(rows_per_step=6, seed=9, windowed=windowed, balanced=balanced)


def test_sizes_are_those_of_the_store_as_numbers(store: Counted) -> None:
    step = rows_of(store, Order(3, 5)).step(0)
    assert step.tokens.dtype == step.squares.dtype == np.int64
