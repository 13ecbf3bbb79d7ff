"""Every nanosecond of a run in exactly one class, from what its drivers and rank 0 of its attempts wrote. Pure.

Durations are integers of one monotonic clock each, so the classes add up to the wall time exactly. Attempts are
placed on their driver's time by when the driver saw them begin; two hosts' clocks are never compared. Only the gap
between two drivers is told by wall clocks: a clock that jumps while no driver runs makes `down` longer or shorter,
never less than nothing; a jump while one runs changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

CLASSES = {
    "compute": "optimizer steps that count",
    "data_wait": "the training waited for rows",
    "checkpoint": "the training waited for a save",
    "evaluation": "held-out loss and answers",
    "start": "cluster, imports, set-up, compile, probe; and their end",
    "prepare": "data",
    "export": "model and card",
    "lost": "done after the commit that the run went on from, and done again",
    "recovery": "from a failure's last sign of life to the next optimizer step",
    "down": "no driver was running",
}
"""Name and meaning, in the order in which they are shown."""

PLANNED = ("stop", "resize")
"""Reasons to interrupt an attempt that are no failures."""


class Span(NamedTuple):
    """What rank 0 did next: start, compute, evaluation or checkpoint."""

    kind: str
    ns: int
    step: int
    """Optimizer steps done at its end."""
    wait_ns: int = 0
    """Nanoseconds of a compute span that were spent waiting for data."""


@dataclass(frozen=True)
class AttemptTime:
    """What rank 0 of an attempt wrote."""

    number: int
    spans: Sequence[Span] = ()
    status: str = ""
    """`status` of the attempt's Outcome; empty where it left none."""
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Did it neither finish nor end as planned?"""
        return not (self.status in ("finished", "stopped") or self.reason in PLANNED)


@dataclass(frozen=True)
class DriverTime:
    """What one command wrote about itself. Times in ns since it began, on its own clock."""

    phases: Sequence[tuple[str, int]]
    """(start, prepare, train, evaluation or export; since when), in order; the first since 0."""
    last_ns: int
    """Last sign of life."""
    began_at_ns: int
    """Wall clock, Unix time."""
    last_at_ns: int
    """Wall clock at the last sign of life."""
    ended: bool
    """It said good-bye."""
    first_attempt: int | None = None
    """Number of the first attempt it could make; None: it did not come to that."""
    seen: Mapping[int, int] | None = None
    """{attempt: when this driver saw it begin}."""


class Stretch(NamedTuple):
    """The next stretch of the run's time."""

    name: str
    """One of CLASSES."""
    ns: int
    attempt: int | None = None
    """The attempt whose rank 0 wrote it; None: the driver's time, or nobody's."""
    step: int | None = None
    is_step: bool = False
    """It ends with an optimizer step."""


def wall_ns(drivers: Sequence[DriverTime], attempts: Sequence[AttemptTime]) -> int:
    """From the first driver's beginning to the newest one's last sign of life, by the definition in the module."""
    return sum(_alive_ns(drivers, i, attempts) + _down_ns(drivers, i, attempts) for i in range(len(drivers)))


def fold(
    drivers: Sequence[DriverTime], attempts: Sequence[AttemptTime], lineage: Sequence[tuple[int, int, int | None]]
) -> list[Stretch]:
    """The run's time, piece by piece, in order; the sum of `ns` is wall_ns().

    lineage: (attempt, after step, until step) of records.lineage_ranges: steps outside were done again.
    """
    until = {number: limit for number, _, limit in lineage}
    redone = any(until.get(attempt.number, -1) is not None for attempt in attempts)
    pieces: list[Stretch] = []
    failed = False  # an attempt has failed, and no step came after it
    for i, driver in enumerate(drivers):
        end, outstanding = _alive_ns(drivers, i, attempts), failed
        starts = [(name, min(since, end)) for name, since in driver.phases]
        for (name, since), (_, limit) in pairwise([*starts, ("end", end)]):
            if name != "train":
                pieces.append(Stretch("recovery" if failed and name == "start" else name, limit - since))
                continue
            is_newest = i == len(drivers) - 1 and not driver.ended
            training = _training(driver, _own(drivers, i, attempts), (since, limit), failed, is_newest)
            pieces += [_lost(piece, until) for piece in training] if redone else training
            failed = False  # what comes after the training in the same command is no recovery
        failed = outstanding  # of a command that made no step the next one recovers from what came before
        for attempt in _own(drivers, i, attempts):
            failed = _failed_after(attempt, failed)
        pieces.append(Stretch("down", _down_ns(drivers, i, attempts)))
    return pieces


def total_ns(pieces: Sequence[Stretch]) -> dict[str, int]:
    """{class: ns} of all classes."""
    found = dict.fromkeys(CLASSES, 0)
    for piece in pieces:
        found[piece.name] += piece.ns
    return found


def _own(drivers: Sequence[DriverTime], i: int, attempts: Sequence[AttemptTime]) -> list[AttemptTime]:
    """The attempts that a driver made."""
    first = drivers[i].first_attempt
    if first is None:
        return []
    later = [driver.first_attempt for driver in drivers[i + 1 :] if driver.first_attempt is not None]
    return [a for a in attempts if first <= a.number and (not later or a.number < later[0])]


def _alive_ns(drivers: Sequence[DriverTime], i: int, attempts: Sequence[AttemptTime]) -> int:
    """From a driver's beginning to its last sign of life, or that of its workers when it was killed."""
    driver, seen = drivers[i], drivers[i].seen or {}
    if driver.ended:
        return driver.last_ns
    signs = [seen[a.number] + _covered(a) for a in _own(drivers, i, attempts) if a.number in seen]
    latest = max([driver.last_ns, *signs])
    if i + 1 < len(drivers):  # and the next one was not there yet
        latest = min(latest, driver.last_ns + max(0, drivers[i + 1].began_at_ns - driver.last_at_ns))
    return latest


def _down_ns(drivers: Sequence[DriverTime], i: int, attempts: Sequence[AttemptTime]) -> int:
    """Between a driver's last sign of life and the next one's beginning; never below 0."""
    if i + 1 == len(drivers):
        return 0
    longer = _alive_ns(drivers, i, attempts) - drivers[i].last_ns
    return max(0, drivers[i + 1].began_at_ns - drivers[i].last_at_ns - longer)


def _failed_after(attempt: AttemptTime, failed_before: bool) -> bool:
    """Is there, at the end of this attempt, a failure that no step has followed?"""
    if attempt.status in ("finished", "stopped"):
        return False
    return attempt.failed or (failed_before and all(span.kind != "compute" for span in attempt.spans))


def _covered(attempt: AttemptTime) -> int:
    return sum(span.ns for span in attempt.spans)


def _training(
    driver: DriverTime, attempts: Sequence[AttemptTime], window: tuple[int, int], failed: bool, is_newest: bool
) -> Iterator[Stretch]:
    """A driver's time in training: its attempts where it saw them, and what lies between.

    An attempt that was seen late (the driver looks twice a second) is moved back so that it fits before the next.
    """
    seen, (now, end) = driver.seen or {}, window
    for i, attempt in enumerate(attempts):
        next_seen = [seen[later.number] for later in attempts[i + 1 :] if later.number in seen]
        limit = min([end, *next_seen[:1]])
        begin = max(now, min(seen.get(attempt.number, limit), limit - _covered(attempt)))
        yield Stretch("recovery" if failed else "start", begin - now)
        now = begin
        yield Stretch("recovery" if failed else "start", 0, attempt.number)
        for span in attempt.spans:
            ns = max(0, min(span.ns, limit - now))
            now += ns
            is_step = span.kind == "compute"
            wait = min(span.wait_ns, ns) if is_step else 0
            if wait:
                yield Stretch("recovery" if failed else "data_wait", wait, attempt.number, span.step)
            failed = failed and not is_step
            yield Stretch("recovery" if failed else span.kind, ns - wait, attempt.number, span.step, is_step)
        is_under_way = is_newest and attempt is attempts[-1] and not attempt.status
        if is_under_way and any(span.kind == "compute" for span in attempt.spans):
            yield Stretch("compute", end - now)
            return
        failed = failed if is_under_way else _failed_after(attempt, failed)
    yield Stretch("recovery" if failed else "start", end - now)


def _lost(piece: Stretch, until: Mapping[int, int | None]) -> Stretch:
    """The same stretch as lost, when its step is not in the final lineage."""
    if piece.attempt is None or piece.step is None or piece.name in ("start", "recovery"):
        return piece
    limit = until.get(piece.attempt, -1)
    return piece if limit is None or piece.step <= limit else piece._replace(name="lost")
