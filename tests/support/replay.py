"""Searches without training: losses come from given curves, on a simulated clock, through the real Sweep."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.search.schedulers import TrialVerdict
from raysft.search.space import Point
from raysft.search.study import Study
from raysft.search.sweep import Sweep, TrialCost, TrialEnd

Curve = Sequence[tuple[int, float]]


class KilledError(Exception):
    """The driver is gone."""


def search_recipe(space: dict[str, Any], *, seed: int = 0, every: int = 2, **tune: Any) -> Recipe:
    """A recipe with nothing to train, and a search."""
    return parse_recipe(
        {
            "name": "sweep",
            "seed": seed,
            "model": {"source": "random", "tokenizer": "t", "config": {"model_type": "llama"}},
            "data": {"train": "none.jsonl", "eval_fraction": 0.1},
            "evaluate": {"every_steps": every},
            "tune": {"space": space, **tune},
        }
    )


def open_sweep(
    recipe: Recipe, url: Any = None, admit: Callable[[Point], str | None] = lambda point: None
) -> tuple[Sweep, Study]:
    assert recipe.tune is not None
    study = Study(url, recipe.name, recipe.tune, seed=recipe.seed, base=recipe.model_dump(mode="json"))
    return Sweep(recipe, recipe.tune, study, admit=admit), study


@dataclass
class Player:
    """Runs a sweep. One step of a trial takes one second of one core; `done` outlives kills as checkpoints do."""

    curve: Callable[[Point], Curve]
    concurrent: int = 1
    done: dict[int, int] = field(default_factory=dict)
    """{trial: steps that it has committed}."""
    born: dict[int, int] = field(default_factory=dict)
    """{trial that is a copy: steps of the one it was copied from}."""
    steps: int = 0
    """Trained, over all trials."""
    events: int = 0
    kill_at: frozenset[int] = frozenset()
    """Events after which the driver dies."""

    def play(self, sweep: Sweep) -> None:
        clock, running = 0.0, []
        while True:
            while len(running) < self.concurrent and (trial := sweep.next()) is not None:
                self._event()
                copied = trial.facts.get("copies")
                if copied is not None:
                    self.done.setdefault(trial.number, self.born.setdefault(trial.number, self.done[copied]))
                run = self._run(sweep, trial.number, self.curve(trial.point))
                heapq.heappush(running, (clock, trial.number, run))
            if not running:
                assert sweep.is_over
                return
            clock, number, run = heapq.heappop(running)
            took = next(run, None)
            if took is not None:
                heapq.heappush(running, (clock + took, number, run))

    def _run(self, sweep: Sweep, number: int, curve: Curve) -> Any:
        before, seconds, asked = self.done.get(number, 0), 0.0, False
        for step, value in [point for point in curve if point[0] > self.born.get(number, 0)]:
            if step > self.done.get(number, 0):
                seconds += step - before
                self.steps += step - before
                yield float(step - before)
                before = step
                self.done[number] = step
            verdict = sweep.report(number, step, (value,), TrialCost(seconds, seconds), is_last=step == curve[-1][0])
            self._event()
            if verdict is not TrialVerdict.GO_ON:
                asked = step < curve[-1][0]
                break
        sweep.end(number, TrialEnd("interrupted" if asked else "finished"), TrialCost(seconds, seconds))
        self._event()

    def _event(self) -> None:
        self.events += 1
        if self.events in self.kill_at:
            raise KilledError
