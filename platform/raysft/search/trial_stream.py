"""A trial from its start to its end, as the lines that it says: what its run records, then how it ended."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from raysft.errors import RaysftError, to_fields
from raysft.recipe.schema import Recipe
from raysft.run.rundir import run_location
from raysft.search.sweep import TrialCost, TrialEnd
from raysft.search.trial_metrics import readings
from raysft.train.history.records import read_metrics

logger = logging.getLogger(__name__)

POLL_S = 0.5
LOOK_SHARE = 20
"""Pause after a look at a run's records / time that it took."""

Train = Callable[[Recipe, Callable[[int], None]], str]
"""(recipe, what is told the number of its steps) -> `finished` or `interrupted`."""


class TrialStream:
    """A trial that trains in a thread, from now on."""

    def __init__(self, recipe: Recipe, train: Train, reserved_s: Callable[[], float] | None = None) -> None:
        """reserved_s(): seconds for which it had a worker's resources; default: since it began."""
        self._recipe, self._train, self._reserved_s = recipe, train, reserved_s
        self._total: list[int] = []
        self._ends: list[TrialEnd] = []
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def messages(self, metrics: list[Any]) -> Iterator[str]:
        """JSON for _SweepSearcher.on_trial_result() (tune_driver.py), until the trial has ended."""
        seen, pause_s = 0, POLL_S
        is_alive = True
        while is_alive:
            self._thread.join(pause_s)
            is_alive = self._thread.is_alive()
            looked = time.monotonic()
            for step, values in _new(run_location(self._recipe), self._recipe, metrics, seen, self._total):
                seen = step
                yield json.dumps({"step": step, "total": self._total[0], "values": values, "spent": self._spent()})
            pause_s = max(POLL_S, LOOK_SHARE * (time.monotonic() - looked))
        yield json.dumps({"ended": asdict(self._ends[0]), "spent": self._spent()})

    def _work(self) -> None:
        try:
            status = self._train(self._recipe, self._total.append)
            self._ends.append(TrialEnd("finished" if status == "finished" else "interrupted"))
        except RaysftError as error:
            self._ends.append(TrialEnd("failed", " ".join(str(error).split()), to_fields(error)))
        except Exception as error:  # process boundary: a trial that fails is an answer
            self._ends.append(TrialEnd("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))

    def _spent(self) -> dict[str, float]:
        seconds, wanted = time.monotonic() - self._started, self._recipe.cluster
        share = (seconds if self._reserved_s is None else self._reserved_s()) * wanted.workers
        return asdict(TrialCost(seconds, core_s=share * wanted.cpus_per_worker, gpu_s=share * wanted.gpus_per_worker))


def _new(
    run: str, recipe: Recipe, metrics: list[Any], seen: int, total: list[int]
) -> list[tuple[int, tuple[float, ...]]]:
    """Readings after step `seen`. What cannot be read just now is read at the next look."""
    if not total:
        return []
    try:
        lines = read_metrics(run)
    except (OSError, ValueError) as error:
        logger.debug("cannot read the records of %s yet: %s", run, error)
        return []
    found = readings(lines, metrics, recipe.evaluate.every_steps, total[0])
    return [reading for reading in found if reading[0] > seen]
