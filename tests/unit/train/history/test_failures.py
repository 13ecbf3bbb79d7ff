"""A failure is written down as it happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raysft.errors import DataError, StorageError
from raysft.train.history.failures import FailureRecord, as_outcome, describe_failure, read_failures, write_failure

CRASH = FailureRecord(attempt=1, rank=0, step=10, kind="TrainingError", what="RuntimeError: lost", certain=False)
CERTAIN = replace(CRASH, kind="ModelError", what="no weights", certain=True)


def at(record: FailureRecord, attempt: int, **fields: object) -> FailureRecord:
    return replace(record, attempt=attempt, **fields)  # type: ignore[arg-type]


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
