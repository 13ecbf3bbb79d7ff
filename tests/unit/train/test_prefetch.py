"""Batches made ahead: in order, one ahead at most, errors where they belong, no trace of what was not asked for."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from raysft.train.prefetch import Prefetch

WAIT_S = 5.0


def test_the_next_batch_is_made_while_this_one_is_used_and_no_further() -> None:
    made: list[int] = []
    begun = [threading.Event() for _ in range(5)]

    def make(step: int) -> int:
        made.append(step)
        begun[step].set()
        return 10 * step

    with closing(Prefetch(make, total_steps=5)) as batches:
        assert made == []
        for step in range(5):
            assert batches(step) == 10 * step
            if step < 4:
                assert begun[step + 1].wait(WAIT_S)
            assert made == list(range(min(step + 2, 5)))


def test_a_resumed_run_begins_where_it_is_asked_to() -> None:
    with closing(Prefetch(lambda step: step, total_steps=9)) as batches:
        assert [batches(step) for step in (7, 8)] == [7, 8]


def test_an_error_comes_up_at_its_step_and_not_before() -> None:
    def make(step: int) -> int:
        if step == 1:
            raise ValueError("torn file")
        return step

    with closing(Prefetch(make, total_steps=3)) as batches:
        assert batches(0) == 0
        with pytest.raises(ValueError, match="torn file"):
            batches(1)


def test_closing_waits_for_nothing() -> None:
    release, begun = threading.Event(), threading.Event()

    def make(step: int) -> int:
        if step == 1:
            begun.set()
            release.wait(WAIT_S)
        return step

    batches = Prefetch(make, total_steps=3)
    assert batches(0) == 0
    assert begun.wait(WAIT_S)
    batches.close()
    assert not release.is_set()
    release.set()
