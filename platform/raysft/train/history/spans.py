"""Where time went, written down as it passes: by rank 0 of each attempt, and by the driver. goodput.py adds it up.

    goodput/attempt-0001.jsonl    rank 0: what it did, for how long, one line after the other without a gap
    goodput/driver-0001.jsonl     a driver: its phases, and when it saw attempts begin
    goodput/beat-0001.json        the driver's newest sign of life

A storage that fails never stops a run for this: the time goes to the next line that can be written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raysft import sealed, storage
from raysft.errors import StorageError
from raysft.lines import LineFile
from raysft.train.commits.layout import own_lines, run_mathematics
from raysft.train.commits.lineage import read_attempts
from raysft.train.history.goodput import CLASSES, AttemptTime, DriverTime, Span
from raysft.train.history.paths import RunPaths

logger = logging.getLogger(__name__)

LOOK_S, BEAT_S = 0.5, 5.0


class WorkerSpans:
    """Rank 0's time from here on; other ranks write nothing."""

    def __init__(
        self, run: str, attempt: int, *, is_writer: bool, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._clock, self._since = clock, clock()
        self._file: LineFile | None = None
        self._origin: dict[str, Any] = {}
        if is_writer:
            try:
                self._file = LineFile(RunPaths(run).goodput(attempt))
                self._origin = {"mathematics": run_mathematics(run)}
            except OSError as error:
                logger.warning("goodput is not recorded: %s", error)

    def until_now(self, kind: str, step: int, data_wait_s: float = 0.0, held_s: float = 0.0) -> None:
        """What passed since the last call was `kind`. step: optimizer steps done; data_wait_s: its part in it.

        held_s: its part in which the update waited for the copy of a save, of the step before."""
        now = self._clock()
        if held_ns := min(now - self._since, int(held_s * 1e9)):
            line = {"kind": "checkpoint", "step": step - 1, "ns": held_ns, **self._origin}
            self._since += held_ns * self._append(line)
        line = {"kind": kind, "step": step, "ns": now - self._since, **self._origin}
        if kind == "compute":
            line["wait_ns"] = min(now - self._since, int(data_wait_s * 1e9))
        if self._append(line):
            self._since = now

    def end(self, status: str, reason: str) -> None:
        """The attempt ended by itself, so."""
        self._append({"status": status, "reason": reason})

    def close(self) -> None:
        """Make it all readable (also at each commit)."""
        if self._file is not None:
            try:
                self._file.flush()
            except StorageError as error:
                logger.warning("goodput is not readable yet: %s", error.what)

    def _append(self, line: dict[str, Any]) -> bool:
        if self._file is not None:
            try:
                self._file.append(line)
            except StorageError as error:
                logger.debug("goodput: %s", error.what)
                return False
        return True


@contextmanager
def driving(run: str, before_ns: int = 0) -> Iterator[Driver]:
    """Record a driver's time inside the block, which starts in the phase `start`. before_ns: spent already."""
    driver = Driver(run, before_ns)
    driver.phase("start")
    thread = threading.Thread(target=driver.watch, name="goodput", daemon=True)
    thread.start()
    try:
        yield driver
    finally:
        driver.over.set()
        thread.join(BEAT_S)
        driver.phase("end")


class Driver:
    """Use driving()."""

    def __init__(self, run: str, before_ns: int) -> None:
        root = storage.join(run, "goodput")
        number = max((int(name[7:-6]) for name in sealed.names(root, _DRIVER)), default=0) + 1
        self._run, self._began, self.over = run, time.monotonic_ns() - before_ns, threading.Event()
        self._file = LineFile(storage.join(root, f"driver-{number:04d}.jsonl"))
        self._beat = storage.join(root, f"beat-{number:04d}.json")
        self._lock, self._next = threading.Lock(), 0

    def phase(self, name: str, attempt: int | None = None) -> None:
        """From here on. `train` has the number of the first attempt that may come: those are looked for."""
        with self._lock:
            try:
                origin = {"mathematics": run_mathematics(self._run)}  # not known before the data are prepared
                self._file.append({"phase": name, **self._now(), "attempt": attempt, **origin})
                self._file.flush()
            except StorageError as error:
                logger.warning("goodput: %s", error.what)
            if name == "train" and attempt is not None:
                self._next = attempt
            elif name != "seen":
                self._next = 0

    def watch(self) -> None:
        """The thread: looks for attempts that begin, and shows that this driver is alive."""
        looks = 0
        while not self.over.wait(LOOK_S):
            try:
                while self._next and any(a.number == self._next for a in read_attempts(self._run)):
                    self.phase("seen", self._next)
                    self._next += 1
                looks += 1
                if looks % int(BEAT_S / LOOK_S) == 0:
                    sealed.write(self._beat, self._now())
            except (OSError, ValueError, StorageError) as error:
                logger.debug("goodput: %s", error)

    def _now(self) -> dict[str, int]:
        return {"ns": time.monotonic_ns() - self._began, "at_ns": time.time_ns()}


def read_spans(run: str) -> tuple[list[DriverTime], list[AttemptTime]]:
    """What the drivers and the attempts of a run wrote, oldest first. Attempts that wrote nothing are there too."""
    root = storage.join(run, "goodput")
    drivers = [_driver(run, name) for name in sealed.names(root, _DRIVER)]
    attempts = [_attempt(run, attempt.number) for attempt in read_attempts(run)]
    return [driver for driver in drivers if driver is not None], attempts


_DRIVER = r"driver-\d{4,}\.jsonl"
_SIGN: sealed.Shape = {"ns": int, "at_ns": int}
_LINES: dict[str, sealed.Shape] = {
    "phase": {"phase": str, **_SIGN},
    "kind": {"kind": str, "ns": int, "step": int},
    "status": {"status": str, "reason": str},
}


def _attempt(run: str, number: int) -> AttemptTime:
    lines = own_lines(run, RunPaths(run).goodput(number), _LINES)
    known = [
        Span(line["kind"], line["ns"], line["step"], line.get("wait_ns", 0))
        for line in lines
        if line.get("kind") in CLASSES
    ]
    last = lines[-1] if lines else {}
    return AttemptTime(number, known, last.get("status", ""), last.get("reason", ""))


def _driver(run: str, name: str) -> DriverTime | None:
    root = storage.join(run, "goodput")
    lines = [line for line in own_lines(run, storage.join(root, name), _LINES) if "phase" in line]
    phases = [(line["phase"], line["ns"]) for line in lines if line["phase"] in (*CLASSES, "train")]
    if not phases:
        return None
    last = lines[-1]
    if last["phase"] != "end":
        beat = sealed.read(storage.join(root, f"beat-{name[7:-6]}.json"), _SIGN)
        last = max(last, beat or last, key=lambda sign: int(sign["ns"]))
    firsts = [line["attempt"] for line in lines if line["phase"] == "train" and line.get("attempt")]
    return DriverTime(
        phases=[(phases[0][0], 0), *phases[1:]],
        last_ns=last["ns"],
        began_at_ns=lines[0]["at_ns"] - lines[0]["ns"],
        last_at_ns=last["at_ns"],
        ended=lines[-1]["phase"] == "end",
        first_attempt=firsts[0] if firsts else None,
        seen={line["attempt"]: line["ns"] for line in lines if line["phase"] == "seen" and line.get("attempt")},
    )
