"""Names in a run directory: what is written is found again, and nothing else is taken for it."""

from __future__ import annotations

import re

import pytest

from raysft.train.history.paths import (
    ATTEMPT,
    ATTEMPT_TRACE,
    FAILURE,
    RANK_LEDGER,
    STEP,
    RunPaths,
    attempt_name,
    attempt_number,
    is_of_attempt,
    step_number,
)

PATHS = RunPaths("s3://bucket/runs/r")


def last(location: str) -> str:
    return location.rpartition("/")[2]


@pytest.mark.parametrize("attempt", [1, 42, 9999, 10_000, 123_456])
def test_the_number_of_an_attempt_comes_back_from_every_name(attempt: int) -> None:
    names = [
        attempt_name(attempt),
        *map(last, (PATHS.attempt(attempt), PATHS.metrics(attempt), PATHS.goodput(attempt))),
    ]
    for name in names:
        assert re.fullmatch(ATTEMPT_TRACE, name), name
        assert attempt_number(name) == attempt
    assert re.fullmatch(ATTEMPT, names[0])
    for location in (PATHS.failure(attempt, 3), PATHS.stack(attempt, 3), PATHS.trace(attempt)):
        assert is_of_attempt(last(location), attempt)
        assert not is_of_attempt(last(location), attempt * 10)
        assert not is_of_attempt(last(location), attempt // 10)
    assert re.fullmatch(FAILURE, last(PATHS.failure(attempt, 100_000)))


@pytest.mark.parametrize("step", [1, 40, 99_999_999, 100_000_000])
def test_the_step_of_a_save(step: int) -> None:
    name = last(PATHS.save(2, step))
    assert re.fullmatch(STEP, name)
    assert step_number(name) == step


def test_names_sort_as_their_numbers_do() -> None:
    for names in ([attempt_name(n) for n in (1, 9, 10, 999)], [last(PATHS.save(1, n)) for n in (1, 9, 10, 99_999)]):
        assert names == sorted(names)


@pytest.mark.parametrize("name", ["attempt-1", "attempt-0001.json.tmp", "xattempt-0001", "attempt-0001.jsonl.1"])
def test_stray_files_are_no_traces(name: str) -> None:
    assert not re.fullmatch(ATTEMPT_TRACE, name)


def test_everything_lies_in_the_run() -> None:
    places = [
        *(PATHS.record, PATHS.result, PATHS.attempt(1), PATHS.save(1, 2), PATHS.metrics(1), PATHS.ledger(1, 0)),
        *(PATHS.goodput(1), PATHS.failure(1, 0), PATHS.stack(1, 0), PATHS.trace(1), PATHS.room("evaluation")),
    ]
    assert len(set(places)) == len(places)
    assert all(place.startswith("s3://bucket/runs/r/") for place in places)
    assert PATHS.ledger(1, 7).startswith(PATHS.ledgers(1) + "/")
    assert re.fullmatch(RANK_LEDGER, last(PATHS.ledger(1, 7)))
