"""What follows from a failure, and that it is written down as it happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raysft.errors import DataError, StorageError
from raysft.train.failures import FailureRecord, as_outcome, describe_failure, read_failures, verdict, write_failure

CRASH = FailureRecord(attempt=1, rank=0, step=10, kind="TrainingError", what="RuntimeError: lost", certain=False)
CERTAIN = replace(CRASH, kind="ModelError", what="no weights", certain=True)


def at(record: FailureRecord, attempt: int, **fields: object) -> FailureRecord:
    return replace(record, attempt=attempt, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failures", "newest", "hopeless"),
    [
        ([], 1, False),
        ([CRASH], 1, False),
        ([CERTAIN], 1, True),
        ([CERTAIN], 2, False),  # a later attempt began: somebody mended it
        ([CRASH, at(CRASH, 2)], 2, True),
        ([CRASH, at(CRASH, 2, step=11)], 2, False),  # it got further
        ([CRASH, at(CRASH, 2, what="OSError: other")], 2, False),
        ([CRASH, at(CRASH, 3)], 3, False),  # attempt 2 was killed: not the same twice in a row
        ([CRASH, at(CRASH, 2, rank=1)], 2, True),  # whichever rank tells
        (
            [at(CRASH, 1, what="OSError: x"), at(CRASH, 2, what="OSError: y"), at(CRASH, 2, what="OSError: x")],
            2,
            True,
        ),
        ([CRASH, at(CERTAIN, 2, rank=3)], 2, True),
    ],
)
def test_there_is_use_in_trying_again_or_not(failures: list[FailureRecord], newest: int, hopeless: bool) -> None:
    outcome = verdict(failures, newest_attempt=newest)
    assert (outcome is not None) == hopeless
    if outcome is not None:
        assert outcome.status == "failed"


def test_an_outcome_carries_the_error_whole() -> None:
    error = DataError("bad line", got="x", expected="y", fix="z")
    record = describe_failure(error, attempt=2, rank=1, step=3, certain=False)
    assert record.certain  # a RaysftError repeats itself
    away = StorageError("cannot write", got="x", expected="y", fix="z")
    assert not describe_failure(away, attempt=2, rank=1, step=3, certain=False).certain  # storage may come back
    outcome = as_outcome(record)
    assert (outcome.status, outcome.step, outcome.reason) == ("failed", 3, "bad line")
    assert outcome.error == {"kind": "DataError", "what": "bad line", "got": "x", "expected": "y", "fix": "z"}


def test_an_error_from_below_is_told_by_type_and_text() -> None:
    record = describe_failure(RuntimeError("a\n  b" * 400), attempt=1, rank=0, step=0, certain=False)
    assert record.kind == "TrainingError"
    assert record.what.startswith("RuntimeError: a b")
    assert "\n" not in record.what
    assert len(record.what) < 600
    assert not record.certain
    assert describe_failure(OSError("x"), attempt=1, rank=0, step=0, certain=True).certain


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    records = [CRASH, at(CRASH, 1, rank=1), at(CERTAIN, 2)]
    assert read_failures(str(tmp_path)) == []
    for record in reversed(records):
        write_failure(str(tmp_path), record)
    assert read_failures(str(tmp_path)) == records
