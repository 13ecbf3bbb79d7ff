"""Attempts, and which commits descend from which.

    attempts/attempt-0002.json      which commit this attempt started from; created exclusively

Fence: only commits in the lineage of the newest attempt count, so what a superseded attempt still writes is never
loaded. A record that is lost or damaged is made anew from what its attempt left: its commits name their attempt's
parent, its metrics the step that it began at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from raysft import sealed
from raysft.errors import CheckpointError
from raysft.train.commits.layout import Checkpoint, CommitId, own_lines, own_record, read_commits
from raysft.train.history.paths import ATTEMPT_TRACE, RunPaths, attempt_number

_PARENT: sealed.Shape = {"attempt": int, "step": int}
_TRACES = ("attempts", "checkpoints", "metrics", "ledger", "goodput")
"""Directories of a run in which attempts leave files by their number."""


@dataclass(frozen=True)
class Attempt:
    """One start of the worker group, and the commit it started from."""

    number: int
    parent: CommitId | None


def record_of(attempt: Attempt, mathematics: str | None) -> dict[str, Any]:
    """The content of an attempt record. mathematics: the run's fingerprint, where it has one."""
    parent = asdict(attempt.parent) if attempt.parent else None
    return {"number": attempt.number, "parent": parent, "mathematics": mathematics}


def read_attempts(run: str) -> list[Attempt]:
    """All attempts of a run, oldest first, also those whose record has to be made anew. Parents are always older."""
    made_commits = {commit.attempt for commit in read_commits(run)}
    attempts: dict[int, Attempt] = {}
    for number in sorted(made_commits | _numbers(run, "attempts")):
        attempts[number] = _read(run, number) or _rebuilt(run, number, attempts)
    return list(attempts.values())


def newest_attempt(run: str) -> int:
    """Number of the newest attempt of a run; 0: none has begun."""
    return max((attempt.number for attempt in read_attempts(run)), default=0)


def next_number(run: str) -> int:
    """A number for the next attempt: one under which nothing was left."""
    return max(set().union(*(_numbers(run, trace) for trace in _TRACES)), default=0) + 1


def lineage(attempts: Sequence[Attempt], commits: Sequence[CommitId]) -> list[CommitId]:
    """Commits the newest attempt descends from or made, newest first (pure).

    An attempt's commits count only up to the step at which its successor in the lineage branched off.
    """
    chain: list[CommitId] = []
    for number, _, until in reversed(step_ranges(attempts)):
        own = [c for c in commits if c.attempt == number and (until is None or c.step <= until)]
        chain += sorted(own, key=lambda c: -c.step)
    return chain


def step_ranges(attempts: Sequence[Attempt]) -> list[tuple[int, int, int | None]]:
    """(attempt, after step, until step or None) of each attempt that the newest one descends from, oldest first."""
    by_number = {attempt.number: attempt for attempt in attempts}
    found: list[tuple[int, int, int | None]] = []
    current, until = (by_number[max(by_number)] if by_number else None), None
    while current is not None:
        parent = current.parent
        found.insert(0, (current.number, parent.step if parent else 0, until))
        until = parent.step if parent else None
        current = by_number.get(parent.attempt) if parent and parent.attempt < current.number else None
    return found


def lineage_ranges(run: str) -> list[tuple[int, int, int | None]]:
    """ranges() of a run."""
    return step_ranges(read_attempts(run))


def _numbers(run: str, trace: str) -> set[int]:
    names = sealed.names(RunPaths(run).room(trace), ATTEMPT_TRACE)
    return {attempt_number(name) for name in names} - {0}


def _read(run: str, number: int) -> Attempt | None:
    """An attempt by its record; None when that is lost, damaged or another attempt's."""
    location = RunPaths(run).attempt(number)
    record = own_record(run, location, {"number": int, "parent": (dict, type(None))})
    if record is None:
        return None
    parent = _parent(record["parent"], number)
    if record["number"] != number or (parent is None and record["parent"] is not None):
        sealed.passed_over(location, f"it is no record of attempt {number}")
        return None
    return Attempt(number, parent)


def _parent(value: Mapping[str, Any] | None, number: int) -> CommitId | None:
    """The commit that a record names, if that can be one: an attempt begins where an older one has committed."""
    if value is None or sealed.problem_of(value, _PARENT):
        return None
    commit = CommitId(value["attempt"], value["step"])
    return commit if 0 < commit.attempt < number and commit.step > 0 else None


def _rebuilt(run: str, number: int, older: Mapping[int, Attempt]) -> Attempt:
    """An attempt without its record: by its commits, its metrics, or as an attempt begins: at the newest commit."""
    commits = read_commits(run)
    own = _own_facts(run, [commit for commit in commits if commit.attempt == number])
    for facts in own.values():
        if "parent" in facts:
            return Attempt(number, _parent(facts["parent"], number))
    began = _began_at(run, number)
    if began is not None:
        return Attempt(number, _at_step(began, older))
    before = lineage(list(older.values()), commits)
    return Attempt(number, next((commit for commit in before if not own or commit.step < min(own)), None))


def _own_facts(run: str, commits: Sequence[CommitId]) -> dict[int, Mapping[str, Any]]:
    """{step: facts} of those commits that are whole and belong where they are."""
    found = {}
    for commit in commits:
        with suppress(OSError, ValueError, CheckpointError):
            found[commit.step] = Checkpoint.open(run, commit).record["facts"]
    return found


def _at_step(step: int, older: Mapping[int, Attempt]) -> CommitId | None:
    """Which commit of this step the next attempt began at: that of the newest older attempt that had come so far."""
    number = max(older, default=0)
    while step > 0 and number in older:
        parent = older[number].parent
        if step > (parent.step if parent else 0):
            return CommitId(number, step)
        number = parent.attempt if parent else 0
    return None


def _began_at(run: str, number: int) -> int | None:
    """The step that an attempt began at, by the first line of its metrics."""
    location = RunPaths(run).metrics(number)
    lines = own_lines(run, location, {"kind": {"kind": str, "step": int}})
    return next((line["step"] for line in lines if line["kind"] == "start"), None)
