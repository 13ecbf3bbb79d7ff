"""Attempts of a run by their spans of time, on a clock that tests move."""

from __future__ import annotations

from raysft import storage
from raysft.train.commits.layout import CommitId, attempt_path
from raysft.train.history import spans

S = 10**9


class Clock:
    def __init__(self) -> None:
        self.now = 7 * S

    def __call__(self) -> int:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += int(seconds * S)


def begin(run: str, number: int, parent: CommitId | None) -> None:
    fields = {"attempt": parent.attempt, "step": parent.step} if parent else None
    storage.write_json(attempt_path(run, number), {"number": number, "parent": fields})


def attempt(
    run: str, number: int, parent: CommitId | None, steps: range, *, status: str = "", reason: str = ""
) -> None:
    """2 s of set-up, steps of 1 s of which 0.25 s wait for data, saves of 0.5 s after every 4th."""
    begin(run, number, parent)
    clock = Clock()
    written = spans.WorkerSpans(run, number, is_writer=True, clock=clock)
    clock.passes(2)
    written.until_now("start", steps.start - 1)
    for step in steps:
        clock.passes(1)
        written.until_now("compute", step, 0.25)
        if step % 4 == 0:
            clock.passes(0.5)
            written.until_now("checkpoint", step)
    if status:
        written.end(status, reason)
    written.close()
