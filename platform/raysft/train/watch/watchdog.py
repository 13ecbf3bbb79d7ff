"""Ends a worker that makes no progress: a collective whose peer hangs waits for ever, and so does a dead disk.

A thread watches the time since the last beat. After the limit it writes down where all threads stand and which
collectives were entered last (<run>/stacks/), and ends the process with its own exit code, so that the group is
restarted.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar, overload

from raysft import storage
from raysft.train.history.paths import RunPaths
from raysft.train.watch import flight_recorder

T = TypeVar("T")

HUNG_EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h: no library ends a worker with it."""
OTHERS_S = 2.0
"""How long a rank that hangs waits for what the others leave. Their last beats are not of the same moment."""
LEAVING_S = 15.0
"""How long storage may take for what a rank leaves: it may be storage that hangs."""


class Watchdog:
    """on_hang(stacks) is called in the watching thread, once, after limit_s without a beat().

    The thread that makes the watchdog is the one that should beat.
    """

    def __init__(self, limit_s: float, on_hang: Callable[[str], None]) -> None:
        self._limit_s, self._on_hang = limit_s, on_hang
        self._last, self._end = time.monotonic(), threading.Event()
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """There was progress."""
        self._last = time.monotonic()

    def close(self) -> None:
        """Watch no longer."""
        self._end.set()
        self._thread.join(1)

    def _watch(self) -> None:
        while not self._end.wait(min(1.0, self._limit_s / 5)):
            if time.monotonic() - self._last > self._limit_s:
                self._on_hang(stacks(self._watched))
                return


class Watched(Sequence[T], Generic[T]):
    """Parts of something long: going from one to the next is progress."""

    def __init__(self, parts: Sequence[T], beat: Callable[[], None]) -> None:
        self._parts, self._beat = parts, beat

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        return self._parts[at]

    def __iter__(self) -> Iterator[T]:
        for part in self._parts:
            self._beat()
            yield part


def stacks(first: int) -> str:
    """Where each Python thread of this process stands, one of them before all: faulthandler gives up after 100."""
    frame = sys._current_frames().get(first)
    watched = "".join(traceback.format_stack(frame)) if frame else "The watched thread has ended.\n"
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return f"{watched}\n{file.read()}"


def leave(run: str, attempt: int, rank: int, num_ranks: int, text: str) -> None:
    """Keep the stacks and the newest collectives in the run, and end this process: it may hold locks for ever.

    The end of one rank ends all; so it waits, not for long, until each of them has left its own. Where storage does
    not take the stacks they go to stderr, of which Ray keeps a file on the node.
    """
    try:
        is_kept = threading.Event()
        keep = partial(_keep, RunPaths(run), attempt, rank, num_ranks, text, is_kept)
        keeping = threading.Thread(target=keep, name="leaving", daemon=True)
        keeping.start()
        keeping.join(LEAVING_S)
        if not is_kept.is_set():
            sys.stderr.write(f"rank {rank} hangs, and storage does not take where it stands:\n{text}\n")
            sys.stderr.flush()
    finally:
        os._exit(HUNG_EXIT_CODE)


def _keep(paths: RunPaths, attempt: int, rank: int, num_ranks: int, text: str, is_kept: threading.Event) -> None:
    storage.write_bytes(paths.stack(attempt, rank), text.encode())
    is_kept.set()
    storage.write_bytes(paths.flight(attempt, rank), flight_recorder.dump())
    until = time.monotonic() + OTHERS_S
    while time.monotonic() < until and not _all_are_there(paths, attempt, num_ranks):
        time.sleep(0.1)


def missing_ranks(run: str, attempt: int, num_ranks: int) -> flight_recorder.Missing | None:
    """The ranks that the others waited for when an attempt hung, where their newest collectives tell it."""
    paths, there = RunPaths(run), set(storage.list_names(RunPaths(run).room("stacks")))
    files = {rank: paths.flight(attempt, rank) for rank in range(num_ranks)}
    traces = {rank: storage.read_bytes(file) for rank, file in files.items() if file.rpartition("/")[2] in there}
    return flight_recorder.missing(traces, num_ranks)


def _all_are_there(paths: RunPaths, attempt: int, num_ranks: int) -> bool:
    there = set(storage.list_names(paths.room("stacks")))
    return all(paths.stack(attempt, rank).rpartition("/")[2] in there for rank in range(num_ranks))
