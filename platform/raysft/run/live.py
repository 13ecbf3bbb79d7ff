"""What a storage path holds, for whoever watches it: read only, and tolerant of what is being written.

Reading costs a bounded share of the time: what was read stays valid for as long as READ_SHARE times what it took.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar, cast

from raysft import storage
from raysft.errors import RaysftError, UserError
from raysft.observe.live import RunRow, SweepRow, render_home, render_sweep
from raysft.run.garbage import no_collection
from raysft.run.run_state import state_of
from raysft.run.rundir import fingerprints_of, recipe_of
from raysft.run.summary import RunReport
from raysft.train.history.account import read_history

logger = logging.getLogger(__name__)

T = TypeVar("T")

FRESH_S = 2.0
"""A page that was made so recently is shown again."""
READ_SHARE = 20
"""Time for which what was read is valid / time that reading took: at most 5% of a CPU."""
AT_ONCE_S = 0.3
"""What took longer is read anew while the page is shown as it was."""
CURVE_POINTS = 200
PACE_STEPS = 50
"""Newest steps whose median is the loss that is told, and whose pace says when a run ends."""


@dataclass(frozen=True)
class _Kept:
    """Something that was read."""

    until: float
    """It is valid, on a monotonic clock."""
    took_s: float
    value: Any


@dataclass
class LiveView:
    """The pages over one storage path. Safe to call from several threads."""

    location: str
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _aside: set[str] = field(default_factory=set)
    """What is being read anew in a thread of its own."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def home(self) -> str:
        """The page of all runs and sweeps."""
        rows = [row for name in self._names("runs") if (row := self._row(name)) is not None]
        sweeps = [_sweep(name, rows) for name in self._names("sweeps")]
        return render_home(self.location, rows, sweeps, time.time())

    def run(self, name: str) -> str | None:
        """The page of a run, as its report.html; None: there is none of this name."""
        if name not in self._names("runs"):
            return None
        return self._once(f"page/{name}", lambda: _run_page(self._run(name)))

    def sweep(self, name: str) -> str | None:
        """The page of a sweep's trials; None: there is none of this name."""
        if name not in self._names("sweeps"):
            return None
        trials = [row for one in self._names("runs") if _is_trial(one, name) and (row := self._row(one))]
        return render_sweep(self.location, name, trials, time.time())

    def _names(self, room: str) -> list[str]:
        return self._once(room, lambda: storage.list_names(storage.join(self.location, room)))

    def _run(self, name: str) -> str:
        return storage.join(self.location, "runs", name)

    def _row(self, name: str) -> RunRow | None:
        """None: it cannot be read just now, or is no run."""

        def read() -> RunRow | None:
            try:
                return _read_row(name, self._run(name))
            except (OSError, ValueError, RaysftError) as error:
                logger.debug("%s cannot be read: %s", name, error)
                return None

        return self._once(f"row/{name}", read)

    def _once(self, what: str, read: Callable[[], T]) -> T:
        """What read() gives, or gave a short time ago. What takes long is read anew aside, and shown as it was."""
        with self._lock:
            kept = self._kept.get(what)
            is_slow = kept is not None and kept.took_s > AT_ONCE_S
            if kept is not None and (time.monotonic() < kept.until or (is_slow and what in self._aside)):
                return cast(T, kept.value)  # made by the same read()
            if kept is not None and is_slow:
                self._aside.add(what)
                threading.Thread(target=self._read, args=(what, read), daemon=True).start()
                return cast(T, kept.value)
        return self._read(what, read)

    def _read(self, what: str, read: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            found = read()
            took = time.monotonic() - began
            self._kept[what] = _Kept(began + took + max(FRESH_S, READ_SHARE * took), took, found)
        finally:
            self._aside.discard(what)
        return found


def live_view(location: str) -> LiveView:
    """Raises UserError where there is nothing."""
    found = storage.absolute(location)
    if not storage.exists(found):
        raise UserError(
            f"there is no storage {found}",
            got="no such directory",
            expected="`storage` of a recipe: runs lie in its `runs`, searches in its `sweeps`",
            fix="check the path",
        )
    if storage.exists(storage.join(found, "run.json")):
        raise UserError(
            f"{found} is one run",
            got="a run's directory",
            expected="the storage that it lies in",
            fix=f"raysft ui {found.rstrip('/').rpartition('/')[0].rpartition('/')[0]}",
        )
    return LiveView(found)


@no_collection()
def _read_row(name: str, run: str) -> RunRow | None:
    if fingerprints_of(run) is None:
        return None
    history = read_history(run)
    lines, account, state = history.metrics, history.account, state_of(run, history.account)
    steps = [line for line in lines if line["kind"] == "step"]
    newest = steps[-PACE_STEPS:]
    held_out = [line["loss"] for line in lines if line["kind"] == "eval" and line["loss"] is not None]
    total = next((line.get("total_steps", 0) for line in reversed(lines) if line["kind"] == "start"), 0)
    left = None
    if state.status == "running" and len(newest) > 1 and total:
        pace = (newest[-1]["at"] - newest[0]["at"]) / (newest[-1]["step"] - newest[0]["step"])
        left = max(0.0, pace * (total - newest[-1]["step"]))
    stride = max(1, len(steps) // CURVE_POINTS)
    return RunRow(
        name=name,
        status=state.status,
        step=newest[-1]["step"] if newest else 0,
        total_steps=total,
        loss=median(line["loss"] for line in newest[-5:]) if newest else None,
        held_out=held_out[-1] if held_out else None,
        tokens_per_s=median(line["tokens_per_s"] for line in newest) if newest else None,
        seen_at=newest[-1]["at"] if newest else 0.0,
        left_s=left,
        incidents=len(account.costs),
        curve=[(float(line["step"]), float(line["loss"])) for line in steps[::stride]],
    )


@no_collection()
def _run_page(run: str) -> str | None:
    """Made from the run's records; None while they cannot be read."""
    recipe, prints, history = recipe_of(run), fingerprints_of(run), read_history(run)
    state = state_of(run, history.account)
    if recipe is None or prints is None:
        return None
    why = state.what if state.status in ("stopped", "failed") else ""
    return RunReport(run, recipe, (), (), prints).page(state.status, why, home="/", history=history)


def _is_trial(run: str, sweep: str) -> bool:
    """Is a run of this name a trial of that sweep (search/tune_driver.py, trial_name)?"""
    return re.fullmatch(rf"{re.escape(sweep)}-\d+", run) is not None


def _sweep(name: str, rows: list[RunRow]) -> SweepRow:
    trials = [row for row in rows if _is_trial(row.name, name)]
    best = min((row.held_out for row in trials if row.held_out is not None), default=None)
    return SweepRow(name, len(trials), sum(row.status == "running" for row in trials), best)
