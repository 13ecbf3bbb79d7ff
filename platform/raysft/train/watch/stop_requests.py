"""What is asked of a running attempt from outside: to commit its state and end. Knows no policy.

    <run>/requests/<name>.json      written by whoever asks (a signalled driver, one that saw a larger cluster)

Rank 0 looks for requests in a thread; the engine tells all ranks the largest notice together with the costs of a
step, so they end at the same step without a collective of their own.
"""

from __future__ import annotations

import threading
from enum import IntEnum

from raysft import storage

POLL_S = 1.0


class Notice(IntEnum):
    """From the mildest to the most urgent."""

    NONE = 0
    RESIZE = 1
    """End after the next commit that is due: the cluster can hold another number of workers."""
    STOP = 2
    """Commit now and end: somebody asked."""
    PREEMPTED = 3
    """Commit now and end: a node is about to be taken away."""


def request(run: str, notice: Notice) -> None:
    """Ask the workers of a run. They see it within POLL_S and the step that they are in."""
    storage.write_json(storage.join(run, "requests", f"{notice.name.lower()}.json"), notice.value)


def clear(run: str) -> None:
    """Forget all requests: an attempt is about to start."""
    storage.remove_tree(storage.join(run, "requests"))


def pending(run: str) -> Notice:
    """The most urgent request that stands."""
    names = storage.list_names(storage.join(run, "requests"))
    found = [notice for notice in Notice if f"{notice.name.lower()}.json" in names]
    return max(found, default=Notice.NONE)


class NoticeBoard:
    """Looks for requests in a thread; `current` never waits."""

    def __init__(self, run: str, poll_s: float = POLL_S) -> None:
        self._run, self._poll_s = run, poll_s
        self._current, self._end = Notice.NONE, threading.Event()
        self._thread = threading.Thread(target=self._look, name="notices", daemon=True)
        self._thread.start()

    def current(self) -> int:
        """The most urgent request seen so far."""
        return int(self._current)

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join(self._poll_s)

    def _look(self) -> None:
        while not self._end.wait(self._poll_s):
            try:
                self._current = max(self._current, pending(self._run))
            except OSError:
                continue  # storage is away: the next look may see it
