"""A run's time and incidents, read from its directory: shares by class, and what each incident cost. Writes nothing.

Incidents are those that were recorded, and those that nobody could record: an attempt that never said how it ended
and left no record is a worker or a driver that was killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raysft.train.commits.lineage import lineage_ranges
from raysft.train.history.failures import read_failures
from raysft.train.history.goodput import AttemptTime, DriverTime, Stretch, fold, total_ns
from raysft.train.history.incidents import Incident, read_incidents
from raysft.train.history.records import AttemptLines, all_metrics, of_lineage
from raysft.train.history.spans import read_spans

PASSING = ("skipped", "transient", "storage", "torn", "straggler")
"""Kinds that end no attempt."""


@dataclass(frozen=True)
class Cost:
    """An incident, and what followed from it. None: not known, or not over."""

    incident: Incident
    detected_after_s: float | None
    """From the last sign of life."""
    steps_lost: int | None
    """Steps that were done and had to be done again."""
    lost_s: float | None
    """Time of those steps."""
    back_after_s: float | None
    """From the last sign of life to the end of the next optimizer step, driver changes included."""


@dataclass(frozen=True)
class Account:
    """Where a run's time went so far."""

    seconds: dict[str, float]
    """{class of goodput.CLASSES: s}."""
    wall_s: float
    """Their sum: from the first driver's beginning to the newest one's last sign of life."""
    costs: tuple[Cost, ...]
    """In order of attempts."""

    @property
    def goodput(self) -> float:
        """Share of the wall time in optimizer steps that count."""
        return self.seconds["compute"] / self.wall_s if self.wall_s else 0.0


@dataclass(frozen=True)
class History:
    """What a run has recorded, read once."""

    every: AttemptLines
    """{attempt: its metric lines}, those that were superseded too."""
    metrics: Sequence[Mapping[str, Any]]
    """Metric lines of the final lineage, in order of steps."""
    account: Account


def read_history(run: str) -> History:
    """What a run has recorded, for whoever asks it several questions."""
    every = all_metrics(run)
    return History(every, of_lineage(every, lineage_ranges(run)), _account(run, every))


def read_account(run: str) -> Account:
    """Where the time of a run went: one under way, ended, or never seen to end."""
    return _account(run, all_metrics(run))


def _account(run: str, every: AttemptLines) -> Account:
    drivers, attempts = read_spans(run)
    pieces = fold(drivers, attempts, lineage_ranges(run))
    recorded = read_incidents(run)
    incidents = [*recorded, *unrecorded(drivers, attempts, recorded, _left_failures(run)), *_skipped(every)]
    costs = [cost(incident, pieces, drivers) for incident in sorted(incidents, key=lambda i: i.attempt)]
    seconds = {name: ns / 1e9 for name, ns in total_ns(pieces).items()}
    return Account(seconds, sum(piece.ns for piece in pieces) / 1e9, tuple(costs))


def unrecorded(
    drivers: Sequence[DriverTime],
    attempts: Sequence[AttemptTime],
    recorded: Sequence[Incident],
    failures: dict[int, str],
) -> list[Incident]:
    """The ends of attempts that nobody recorded (pure). failures: {attempt: what a rank wrote down}."""
    known = {incident.attempt for incident in recorded if incident.kind not in PASSING}
    firsts = [driver.first_attempt for driver in drivers if driver.first_attempt is not None]
    orphaned = {
        later - 1
        for driver, later in zip([d for d in drivers if d.first_attempt is not None], firsts[1:], strict=False)
        if not driver.ended
    }
    newest = attempts[-1].number if attempts and drivers and not drivers[-1].ended else None  # may be under way
    found = []
    for attempt in attempts:
        step = max((span.step for span in attempt.spans), default=None)
        if attempt.number in known or attempt.status in ("finished", "stopped") or attempt.reason == "resize":
            continue
        if attempt.reason == "stop":
            kind, what = "interrupted", "it was asked to stop, and committed its state"
        elif attempt.status:
            kind, what = attempt.status, attempt.reason
        elif attempt.number in failures:
            kind, what = "code", failures[attempt.number]
        elif attempt.number == newest:
            continue
        elif attempt.number in orphaned:
            kind, what = "driver", "the driver died, and its workers with it"
        else:
            kind, what = "worker", "a worker was killed: it left no record"
        found.append(Incident(kind, what, attempt.number, step=step))
    return found


def cost(incident: Incident, pieces: Sequence[Stretch], drivers: Sequence[DriverTime]) -> Cost:
    """What an incident cost, by the folded time (pure). Of one that ended no attempt: nothing is known."""
    own = [i for i, piece in enumerate(pieces) if piece.attempt == incident.attempt]
    if incident.kind in PASSING or not own:
        return Cost(incident, incident.detected_after_s, None, None, None)
    lost = [pieces[i] for i in own if pieces[i].name == "lost"]
    later = pieces[own[-1] + 1 :]
    steps = [i for i, piece in enumerate(later) if piece.is_step]
    detected = incident.detected_after_s
    if detected is None and incident.at is not None:
        detected = _detected(incident.at, sum(piece.ns for piece in pieces[: own[-1] + 1]), drivers)
    reached = max((pieces[i].step or 0 for i in own), default=0)
    return Cost(
        incident=incident if incident.step is not None else replace(incident, step=reached),
        detected_after_s=detected,
        steps_lost=sum(piece.is_step for piece in lost) if steps else None,
        lost_s=sum(piece.ns for piece in lost) / 1e9 if steps else None,
        back_after_s=sum(piece.ns for piece in later[: steps[0] + 1]) / 1e9 if steps else None,
    )


def _detected(at: float, sign_ns: int, drivers: Sequence[DriverTime]) -> float | None:
    """From the last sign of life, `sign_ns` into the run, to `at` on the driver's clock; None if that went back."""
    seconds = at - (drivers[0].began_at_ns + sign_ns) / 1e9
    return round(seconds, 3) if seconds >= 0 else None


def _left_failures(run: str) -> dict[int, str]:
    return {failure.attempt: failure.what for failure in reversed(read_failures(run))}


def _skipped(every: AttemptLines) -> list[Incident]:
    """Steps whose gradients were not finite, twice or once, from the metrics of each attempt."""
    found = []
    for number, lines in every.items():
        for line in lines:
            if line["kind"] == "step" and line["skipped"]:
                what = "the gradients were not finite, twice: the update was left out"
                found.append(Incident("skipped", what, number, at=line["at"], step=line["step"]))
            elif line["kind"] == "step" and line.get("replayed"):
                what = "the gradients were not finite; the step was done again, and they were"
                found.append(Incident("transient", what, number, at=line["at"], step=line["step"]))
    return found
