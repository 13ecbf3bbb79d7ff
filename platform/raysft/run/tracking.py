"""A run's curves told to trackers (observe/trackers/) while it goes on, in a thread of their own.

Nothing that a tracker does ends or delays a run: one that raises is left out from then on, with a warning, and one
that hangs is not waited for.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from raysft import storage
from raysft.errors import InterruptedRunError, RecipeError, redacted
from raysft.observe.trackers import PACKAGES, TRACKERS
from raysft.observe.trackers.base import Place, Point, Tracker
from raysft.observe.trackers.mlflow import URI
from raysft.recipe.schema import Recipe
from raysft.recipe.secrets import hidden
from raysft.train.history.records import MEMORY, evaluated_sets

logger = logging.getLogger(__name__)

CLOSE_S = 60.0
"""Longest wait for trackers when a run ends."""
_STEP_VALUES = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "mfu", *MEMORY, "step_s", "total_tokens")

Fields = Mapping[str, Any]


def check_trackers(recipe: Recipe) -> None:
    """Can the recipe's trackers be opened here? Raises RecipeError."""
    local = _local(recipe.storage)
    for name in recipe.train.trackers:
        if find_spec(PACKAGES[name]) is None:
            raise RecipeError(
                f"the tracker {name} needs a package that is not installed",
                got=f"no module {PACKAGES[name]}",
                expected="the package of that tracker, where this command runs",
                fix=f"pip install 'raysft[{name}]', or leave it out of train.trackers",
            )
        if not local and not (name == "mlflow" and os.environ.get(URI)):
            raise RecipeError(
                f"the tracker {name} writes into a directory",
                got=f"storage: {recipe.storage}",
                expected=f"a directory of this machine, or a server in {URI}" if name == "mlflow" else "a directory",
                fix=f"set {URI}" if name == "mlflow" else f"use mlflow with a server ({URI}), or leave it out",
            )


def _local(location: str) -> str:
    """The path of a directory of this machine; empty: it is none."""
    path = storage.absolute(location).removeprefix("file://")
    return "" if "://" in path else path


@contextmanager
def tracking(run: str, recipe: Recipe, fingerprints: Mapping[str, str]) -> Iterator[Tracking]:
    """Inside, the run's trackers are told what it records; at the end, how it ended."""
    identity = hashlib.sha256(f"{run} {fingerprints.get('mathematics')}".encode()).hexdigest()[:32]
    fields = dict(_leaves(hidden(recipe.model_dump(mode="json", exclude_defaults=True))))
    place = Place(recipe.name, identity, _local(run), _local(recipe.storage), fields)
    tracked = Tracking(recipe.train.trackers, place)
    try:
        yield tracked
    except BaseException as error:
        asked = isinstance(error, InterruptedRunError | KeyboardInterrupt | SystemExit)
        tracked.close("stopped" if asked else "failed")
        raise
    tracked.close("finished")


class Tracking:
    """Use tracking(). Called with each new line of the metrics."""

    def __init__(self, names: tuple[str, ...], place: Place) -> None:
        self._names, self._place = names, place
        self._told: queue.SimpleQueue[Fields | Point | str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._tell, name="trackers", daemon=True)
        if names:
            self._thread.start()

    def __call__(self, line: Fields) -> None:
        """A line of the newest attempt's metrics."""
        if self._names:
            self._told.put(line)

    def evaluated(self, before: Fields | None, after: Fields | None, steps: int) -> None:
        """What was measured before and after the training, by set."""
        for when, found, step in (("before", before, 0), ("after", after, steps)):
            values = {
                f"{when}/{name}/{metric}": float(one["value"])
                for name, record in (found or {}).items()
                for metric, one in record["metrics"].items()
            }
            if values and self._names:
                self._told.put(Point(step, time.time(), values))

    def close(self, status: str) -> None:
        """Waits until all is told, for CLOSE_S at most."""
        if not self._names:
            return
        self._told.put(status)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            logger.warning("trackers (%s) have not taken everything within %.0f s", ", ".join(self._names), CLOSE_S)

    def _tell(self) -> None:
        """The thread: opens the trackers and tells them what comes, all that waits at once."""
        trackers: dict[str, Tracker] = {}
        for name in self._names:
            with _left_out(name, trackers):
                trackers[name] = TRACKERS[name](self._place)
        ended = ""
        while not ended and (trackers or not self._names):
            waiting = [self._told.get()]
            while not self._told.empty():
                waiting.append(self._told.get())
            for rewound, points in _batches([one for one in waiting if not isinstance(one, str)]):
                for name, tracker in list(trackers.items()):
                    with _left_out(name, trackers):
                        if rewound is not None:
                            tracker.rewind(rewound)
                        if points:
                            tracker.log(points)
            ended = next((one for one in waiting if isinstance(one, str)), "")
        for name, tracker in list(trackers.items()):
            with _left_out(name, trackers):
                tracker.close(ended)


@contextmanager
def _left_out(name: str, trackers: dict[str, Tracker]) -> Iterator[None]:
    """A tracker that raises is left out from then on."""
    try:
        yield
    except Exception as error:  # whatever another's library raises: the run goes on
        trackers.pop(name, None)
        text = redacted(str(error)).partition("\n")[0]
        logger.warning("the tracker %s is left out from here on: %s: %s", name, type(error).__name__, text)


def _batches(lines: list[Fields | Point]) -> list[tuple[int | None, list[Point]]]:
    """(step that the run went on from, points after it). None: it went on as it was. Pure."""
    found: list[tuple[int | None, list[Point]]] = [(None, [])]
    for line in lines:
        if isinstance(line, Point):
            found[-1][1].append(line)
        elif line["kind"] == "start":
            if line["step"]:
                found.append((line["step"], []))
        else:
            found[-1][1].append(Point(line["step"], float(line.get("at", time.time())), values_of(line)))
    return found


def values_of(line: Fields) -> dict[str, float]:
    """What a line of a run's metrics says, by the names that trackers show. Pure."""
    if line["kind"] == "eval":
        return {
            f"{name}/{measure}": float(value)
            for name, found in evaluated_sets(line).items()
            for measure, value in {
                "loss": found["loss"],
                "perplexity": found["perplexity"],
                **found.get("terms", {}),
                **found.get("metrics", {}),
            }.items()
            if value is not None
        }
    values = {name: line[name] for name in _STEP_VALUES if line.get(name) is not None}
    values |= {f"terms/{name}": value for name, value in line.get("terms", {}).items()}
    values |= {f"metrics/{name}": value for name, value in line.get("metrics", {}).items()}
    return {name: float(value) for name, value in values.items()}


def _leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of every field."""
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in _leaves(child, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, value)]
