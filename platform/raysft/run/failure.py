"""What follows from the way attempts ended. Pure: no cluster, no clock, no storage; attempts.py acts on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "worker",  # a worker process died
    "node",  # its node died
    "memory",  # it was killed because a node ran out of memory, or an allocation of its own failed
    "hardware",  # a device or a link of its node is broken: the node is left out from then on
    "hung",  # its watchdog ended it
    "start",  # workers could not be started
    "controller",  # Ray Train's controller died
    "code",  # an exception in a worker
    "no_storage",  # storage was away for longer than a save waits
    "rollback",  # the loss spiked: the next attempt leaves the step out
    "preempted",  # a node is taken away; the state was committed
    "resize",  # asked to end, to go on with more workers
]

PLANNED = ("preempted", "resize")
"""Nothing failed: no back-off, and not counted."""

BACK_OFF_S, MAX_BACK_OFF_S = 2.0, 300.0


@dataclass(frozen=True)
class AttemptEnd:
    """One attempt that did not bring the run to its end."""

    kind: Kind
    what: str
    """In one line."""
    gained: int
    """Steps that it committed."""
    error: str = ""
    """The exception, and the step it came at, where the kind is `code`. Equal texts are the same error."""
    node: str = ""
    """The node that is to be left out, where the kind is `hardware`."""
    certain: bool = False
    """Would it happen again? True for an error that raysft names, where the kind is `code`."""


@dataclass(frozen=True)
class Limits:
    """What the recipe allows."""

    max_failures: int
    may_halve: bool
    """The micro-batch may be made smaller, and can be."""


@dataclass(frozen=True)
class Retry:
    """Start again from the newest commit, with as many workers as there is room for."""

    after_s: float = 0.0
    smaller_micro_batch: bool = False


@dataclass(frozen=True)
class Stop:
    """Give up. `reason` is a diagnosis in one line, `fix` what may help."""

    reason: str
    fix: str


def decide(history: Sequence[AttemptEnd], limits: Limits) -> Retry | Stop:
    """What to do after the last of these attempts; oldest first, at least one.

    Failures count while they follow each other without a committed step; one that had gained steps is the first of
    its row. More than max_failures in a row stop the run. From the second on, each waits twice as long.
    """
    last = history[-1]
    if last.kind in PLANNED:
        return Retry()
    row = _row(history)
    if last.certain:
        return Stop(last.what, "mend it, then run the same command")
    if last.error and [ended.error for ended in row[-2:]] == [last.error] * 2:
        return Stop(f"the same error twice: {last.what}", "mend it: it comes again at the same step")
    if last.kind == "memory" and limits.may_halve:
        return Retry(smaller_micro_batch=True)
    if last.kind == "memory" and len(row) > 1 and row[-2].kind == "memory":
        return Stop(
            "workers ran out of memory twice",
            "lower train.micro_batch_rows (or set parallel.auto_micro_batch), or use more workers or ZeRO 3",
        )
    if len(row) > limits.max_failures:
        return Stop(_diagnosis(row), "mend the cause, then run the same command: it goes on from the last commit")
    return Retry(min(BACK_OFF_S * 2 ** (len(row) - 2), MAX_BACK_OFF_S) if len(row) > 1 else 0.0)


def _row(history: Sequence[AttemptEnd]) -> list[AttemptEnd]:
    """The failures since a step was last committed, oldest first."""
    row: list[AttemptEnd] = []
    for ended in reversed(history):
        if ended.kind not in PLANNED:
            row.insert(0, ended)
        if ended.gained:
            break
    return row


def _diagnosis(row: Sequence[AttemptEnd]) -> str:
    kinds = {kind: sum(ended.kind == kind for ended in row) for kind in dict.fromkeys(e.kind for e in row)}
    counted = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    return f"{len(row)} failures without a committed step between them ({counted}); the last: {row[-1].what}"
