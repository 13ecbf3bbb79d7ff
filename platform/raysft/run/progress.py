"""What a person sees while a run trains: a bar on a terminal, lines elsewhere; and what a monitoring is told.

Reads the run's own records.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from rich.progress import TaskID, TimeRemainingColumn

from raysft.observe.goodput import duration_text
from raysft.recipe.measures import HELD_OUT
from raysft.run.bars import bars
from raysft.run.storage_watch import StorageWatch
from raysft.run.time_gauges import Gauges, TimeGauges
from raysft.train.commits.layout import CommitId, read_commits
from raysft.train.commits.lineage import newest_attempt, read_attempts
from raysft.train.history.records import MEMORY, attempt_metrics, evaluated_sets

logger = logging.getLogger(__name__)

POLL_S = 0.5
SILENT_S = 600.0
"""Longest time without a line, unless the recipe says how many steps."""
COMMITS_S = 15.0
"""Time between two looks for a new checkpoint."""
PACE_STEPS = 100
"""Newest steps whose pace tells how long the rest will take."""
LOOK_SHARE = 50
"""Pause after a look at the records / time that it took: at most 2% of a CPU."""


class TrainingProgress:
    """Follows the metrics of the newest attempt in a thread, from __enter__ to __exit__."""

    def __init__(
        self,
        run: str,
        total_steps: int,
        log_every_steps: int | None = None,
        gauges: Gauges | None = None,
        measured: Callable[[], None] = lambda: None,
        placement: Callable[[int], str | None] = lambda attempt: None,
        *,
        tracked: Callable[[Mapping[str, Any]], None] = lambda line: None,
    ) -> None:
        """log_every_steps: between two lines without a terminal; None: a tenth of the run, and SILENT_S at most.

        measured: called after evaluations, and every SILENT_S without one, for LOOK_SHARE of the time at most.
        placement: what is to be told of where the workers of an attempt are. tracked: told each new line.
        """
        self._measured, self._is_news, self._measured_s, self._next_s = measured, False, time.monotonic(), 0.0
        self._placement, self._tracked = placement, tracked
        self._gauges, self._commit, self._commit_at, self._looked_at = gauges, CommitId(0, 0), time.monotonic(), 0.0
        self._times_told = TimeGauges(run, gauges) if gauges is not None else None
        self._run, self._total_steps, self._log_every = run, total_steps, log_every_steps
        self._said_at, self._times = 0.0, deque[tuple[int, float]](maxlen=PACE_STEPS)
        self._ended, self._storage = threading.Event(), StorageWatch(run)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._attempt, self._num_seen, self._last_said = 0, 0, -1
        self._bar = bars(TimeRemainingColumn())
        self._task = self._bar.add_task("training", total=total_steps, text="waiting for workers")

    def __enter__(self) -> TrainingProgress:
        self._attempt = newest_attempt(self._run)
        self._num_seen = len(list(attempt_metrics(self._run, self._attempt)))  # an earlier command's, said by it
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=10)
        self._bar.stop()

    def _follow(self) -> None:
        pause_s = POLL_S
        while not self._ended.wait(pause_s):
            self._storage.look(time.monotonic())
            self._measure_commits(time.monotonic())
            if self._times_told is not None:
                self._times_told.look(time.monotonic())
            started = time.perf_counter()
            self._look()  # reads all there is, so of a long run rarely
            pause_s = max(POLL_S, LOOK_SHARE * (time.perf_counter() - started))
            self._pass_on(time.monotonic())
        self._look()

    def _look(self) -> None:
        """Show what is new. A record that cannot be read just now is read at the next look."""
        try:
            newest = max((a for a in read_attempts(self._run)), key=lambda a: a.number, default=None)
            if newest is not None and newest.number > self._attempt:
                if newest.number > 1:
                    start = newest.parent.step if newest.parent else 0
                    logger.info("attempt %d starts from step %d", newest.number, start)
                self._attempt, self._num_seen = newest.number, 0
                self._times.clear()
            lines = list(attempt_metrics(self._run, self._attempt))
        except OSError as error:
            logger.debug("cannot read the run's records yet: %s", error)
            return
        for line in lines[self._num_seen :]:
            self._show(line)
            self._tracked(line)
        self._num_seen = len(lines)

    def _pass_on(self, now: float) -> None:
        """Call `measured` where it is due."""
        if now < self._next_s or not (self._is_news or now - self._measured_s >= SILENT_S):
            return
        self._is_news = False
        self._measured()
        self._measured_s = time.monotonic()
        self._next_s = self._measured_s + LOOK_SHARE * (self._measured_s - now)

    def _measure_commits(self, now: float) -> None:
        """How old the newest checkpoint is."""
        if self._gauges is None or now - self._looked_at < COMMITS_S:
            return
        self._looked_at = now
        try:
            newest = max(
                read_commits(self._run), key=lambda commit: (commit.attempt, commit.step), default=self._commit
            )
        except OSError as error:
            logger.debug("cannot list the run's checkpoints: %s", error)
            return
        if newest != self._commit:
            self._commit, self._commit_at = newest, now
        self._gauges.set({"commit_age_seconds": now - self._commit_at})

    def _measure(self, line: Mapping[str, Any]) -> None:
        """What a line says, for a monitoring."""
        if self._gauges is None:
            return
        if line["kind"] == "eval" and line["loss"] is not None:
            self._gauges.set({"held_out_loss": line["loss"]})
        if line["kind"] == "step":
            same = ("step", "loss", "grad_norm", "learning_rate", "data_wait_share", *MEMORY)
            found = {name: line[name] for name in same if name in line} | {"tokens_per_second": line["tokens_per_s"]}
            known = {} if line["mfu"] is None else {"mfu": line["mfu"]}
            self._gauges.set({**found, **known, "attempt": self._attempt, "total_steps": self._total_steps})

    def _show(self, line: dict[str, Any]) -> None:
        self._measure(line)
        if line["kind"] == "eval":
            self._is_news = True
            for name, found in evaluated_sets(line).items():
                what = "held-out" if name == HELD_OUT else name
                perplexity = "" if found["perplexity"] is None else f", perplexity {found['perplexity']:.2f}"
                loss = f"{what} loss {found['loss']:.4f}{perplexity}{parts_text(found)}"
                logger.info("step %d: %s", line["step"], loss)
            return
        if line["kind"] == "start":
            logger.info(
                "probed %d rows of the greatest length in a forward pass: %.1f s",
                line["micro_batch_rows"],
                line["probe_s"],
            )
            if told := self._placement(self._attempt):
                logger.warning("%s", told)
            return
        mfu = "" if line["mfu"] is None else f"  MFU {line['mfu']:.0%}"
        text = f"loss {line['loss']:.4f}{parts_text(line)}  {line['tokens_per_s']:,.0f} tokens/s{mfu}"
        self._bar.update(self._task, completed=line["step"], text=text)
        self._times.append((line["step"], line["at"]))
        if self._bar.disable and self._is_due(line["step"], line["at"]):
            self._last_said, self._said_at = line["step"] * 10 // self._total_steps, line["at"]
            logger.info("step %d/%d: %s  %s", line["step"], self._total_steps, text, self._clock(line))

    def _is_due(self, step: int, at: float) -> bool:
        """Is a step told in a line of its own?"""
        if step in (1, self._total_steps):
            return True
        if self._log_every is not None:
            return step % self._log_every == 0
        return step * 10 // self._total_steps > self._last_said or at - self._said_at >= SILENT_S

    def _clock(self, line: Mapping[str, Any]) -> str:
        """`1,234,567 tokens  12 min 05 s left  2026-11-28 01:02:03 UTC`."""
        (first, began), (last, at) = self._times[0], self._times[-1]
        pace_s = (at - began) / (last - first) if last > first else float(line["step_s"])
        left = duration_text(pace_s * (self._total_steps - last))
        when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{line['total_tokens']:,} tokens  {left} left  {when}"


def parts_text(line: Mapping[str, Any]) -> str:
    """`, nll 1.2345, kl 0.0210` of a step or an evaluation: its terms where there are several, its metrics."""
    terms, metrics = line.get("terms", {}), line.get("metrics", {})  # lines of earlier versions have neither
    shown = (terms if len(terms) > 1 else {}) | metrics
    return "".join(f", {name} {value:.4f}" for name, value in shown.items())


class PrepareProgress:
    """A bar while data is prepared, on a terminal only. Called with (what, done, total), as prepare() does."""

    def __init__(self) -> None:
        self._bar = bars(TimeRemainingColumn(), transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> PrepareProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` pieces are made."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(f"preparing {what}", total=total, text="")
        self._bar.update(self._tasks[what], completed=done, total=total)
