"""What went wrong in an attempt, written down by the rank it happened to. Decides nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from raysft import storage
from raysft.errors import RaysftError, StorageError, to_fields
from raysft.train.state import Outcome


@dataclass(frozen=True)
class FailureRecord:
    """One exception in one rank. `certain`: it would happen again (a RaysftError, a failed set-up)."""

    attempt: int
    rank: int
    step: int
    kind: str
    what: str
    got: str = ""
    expected: str = ""
    fix: str = ""
    certain: bool = False


def describe_failure(error: Exception, *, attempt: int, rank: int, step: int, certain: bool) -> FailureRecord:
    """An exception as a record. Errors below raysft are told by their type and text."""
    if isinstance(error, RaysftError):
        certain = not isinstance(error, StorageError)  # which may come back
        return FailureRecord(attempt, rank, step, **to_fields(error), certain=certain)
    text = " ".join(str(error).split())[:500]
    return FailureRecord(attempt, rank, step, "TrainingError", f"{type(error).__name__}: {text}", certain=certain)


def write_failure(run: str, record: FailureRecord) -> None:
    """Keep the record beside the attempt's."""
    name = f"attempt-{record.attempt:04d}-rank-{record.rank:05d}.json"
    storage.write_json(storage.join(run, "failures", name), asdict(record))


def read_failures(run: str) -> list[FailureRecord]:
    """All records of a run, by attempt and rank."""
    root = storage.join(run, "failures")
    names = [name for name in storage.list_names(root) if name.startswith("attempt-")]  # no temporary files
    return [FailureRecord(**storage.read_json(storage.join(root, name))) for name in names]


def as_outcome(failure: FailureRecord) -> Outcome:
    """The end of a run by this failure."""
    error = {name: getattr(failure, name) for name in ("kind", "what", "got", "expected", "fix")}
    return Outcome(status="failed", step=failure.step, reason=failure.what, error=error)
