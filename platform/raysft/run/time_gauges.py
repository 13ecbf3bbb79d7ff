"""Where a run's time goes and how often it failed, told to a monitoring now and then, read from all its records."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Protocol

from raysft.run.failure import PLANNED
from raysft.train.history.account import PASSING, read_account
from raysft.train.history.spans import read_spans

logger = logging.getLogger(__name__)

EVERY_S = 30.0
"""Between two looks."""
SHARE = 50
"""Pause after a look / time that it took: at most 2% of a CPU."""


class Gauges(Protocol):
    """Where numbers go by name (runtime/gauges.py)."""

    def set(self, values: Mapping[str, float]) -> None: ...
    def set_times(self, seconds: Mapping[str, float]) -> None: ...


class TimeGauges:
    """Tells gauges the seconds of each class of goodput, the newest save's stall, and the failures so far."""

    def __init__(self, run: str, gauges: Gauges) -> None:
        self._run, self._gauges, self._next_s = run, gauges, 0.0

    def look(self, now: float) -> None:
        """now: of a monotonic clock, s. Nothing where it is too soon, or records cannot be read just now."""
        if now < self._next_s:
            return
        began = time.perf_counter()
        try:
            account = read_account(self._run)
            _, attempts = read_spans(self._run)
        except OSError as error:
            logger.debug("cannot read where the run's time went: %s", error)
            return
        finally:
            self._next_s = now + max(EVERY_S, SHARE * (time.perf_counter() - began))
        self._gauges.set_times(account.seconds)
        ended = [one for one in account.costs if one.incident.kind not in (*PASSING, *PLANNED)]
        saves = [span for attempt in attempts for span in attempt.spans if span.kind == "checkpoint"]
        newest_ns = [
            span.ns for span in saves[-2:] if span.step == saves[-1].step
        ]  # before the save, and for its copy
        stall = {"checkpoint_stall_seconds": sum(newest_ns) / 1e9} if saves else {}
        self._gauges.set({"goodput": account.goodput, "failures": len(ended), **stall})
