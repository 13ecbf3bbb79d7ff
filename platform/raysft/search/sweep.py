"""One search as a state machine: which trial next, what becomes of one that reports. Knows no Ray and trains nothing.

Everything is written to the study before it is acted on, and nothing else is remembered: a new Sweep over the study
of a killed one goes on with the trials that were running, then with new ones.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from raysft.errors import ClusterError
from raysft.recipe.schema import Recipe
from raysft.recipe.tune import TuneSection
from raysft.search.schedulers import TrialVerdict, judge, pbt_copies, with_rungs
from raysft.search.space import Point, grid, neighbours
from raysft.search.study import State, Study, Trial

logger = logging.getLogger(__name__)

MOST_REFUSED = 200
"""Points in a row that cannot be run before the search is given up."""

MOST_LOST = 3
"""Times that a trial's process may be lost before the trial counts as failed."""


@dataclass(frozen=True)
class TrialCost:
    """What a trial has reserved, for as long as it ran since it was last started."""

    seconds: float = 0.0
    core_s: float = 0.0
    gpu_s: float = 0.0

    def plus(self, other: TrialCost) -> TrialCost:
        """Both."""
        return TrialCost(self.seconds + other.seconds, self.core_s + other.core_s, self.gpu_s + other.gpu_s)


def spent_of(trial: Trial) -> TrialCost:
    """All that a trial has cost so far."""
    return TrialCost(*trial.facts.get("spent", ()))


@dataclass(frozen=True)
class TrialEnd:
    """How a trial's process ended. `interrupted`: it was asked to; `lost`: nobody knows why."""

    status: Literal["finished", "interrupted", "failed", "lost"]
    reason: str = ""
    error: dict[str, str] | None = None
    """The RaysftError that a failed trial ended with, as errors.to_fields() writes it; kept in the study."""


class Sweep:
    """See the module. admit(point) is None, or why no trial can run there."""

    def __init__(
        self, recipe: Recipe, tune: TuneSection, study: Study, *, admit: Callable[[Point], str | None]
    ) -> None:
        self._tune, self._study, self._admit = tune, study, admit
        self._seed, self._every = recipe.seed, recipe.evaluate.every_steps or 1
        self._rules = with_rungs(tune.scheduler, recipe.evaluate.every_steps)
        self._points: list[Point] = list(tune.start)
        if tune.searcher == "grid":
            self._points = grid(tune.space, recipe.model_dump(mode="json"))
        self._active: dict[int, TrialVerdict] = {}
        self._before: dict[int, TrialCost] = {}
        self._stopping = False
        for trial in self._study.trials():  # killed between the birth of a copy and the end of what it replaces
            if "replaces" in trial.facts and self._of(trial.facts["replaces"]).state == "running":
                self._study.end(trial.facts["replaces"], "pruned", None)

    @property
    def is_over(self) -> bool:
        """Nothing runs, and nothing is to come in this command."""
        return not self._active and (self._is_spent() or not (self._waiting() or self._left()))

    @property
    def active(self) -> list[int]:
        """Trials that run now."""
        return list(self._active)

    def is_judged(self, number: int) -> bool:
        """Was this running trial told to end?"""
        return self._active.get(number) is not TrialVerdict.GO_ON

    def pause_step(self, trial: Trial) -> int | None:
        """Where a trial will be told to pause: it is to end there and nowhere later, for others may copy it."""
        if self._rules.kind != "pbt":
            return None
        gap = self._rules.min_steps or 1
        boundary = (int(trial.facts.get("round", 0)) // gap + 1) * gap
        return math.ceil(boundary / self._every) * self._every

    def stop(self) -> None:
        """No new trials; those that run are told to pause when they report."""
        self._stopping = True

    def next(self) -> Trial | None:
        """The trial to start (or to go on with) now; None: not now. Raises ClusterError when no point can run."""
        if self._is_spent():
            return None
        if self._rules.kind == "pbt":
            self._end_round()
        waiting = self._waiting()
        if waiting:
            return self._started(waiting[0])
        for _ in range(MOST_REFUSED):
            if not self._left():
                return None
            created = len([trial for trial in self._own() if "copies" not in trial.facts])
            trial = self._study.ask(self._points[created] if created < len(self._points) else None)
            reason = self._admit(trial.point)
            if reason is None:
                return self._started(trial)
            self._study.note(trial.number, "refused", reason)
            self._study.end(trial.number, "pruned" if len(self._tune.metrics) == 1 else "failed", None)
            logger.info("trial %d is passed over: %s", trial.number, reason)
        raise ClusterError(
            f"{MOST_REFUSED} points in a row cannot be run",
            got=reason or "",
            expected="a space of which a part fits the cluster",
            fix="narrow tune.space, or use more workers or memory",
        )

    def report(
        self, number: int, step: int, values: tuple[float, ...], spent: TrialCost, *, is_last: bool = False
    ) -> TrialVerdict:
        """A running trial's metrics at a step. What it is to do, which is also remembered for its end.

        What it reports after it was judged is not kept: that depends on how fast it ends, not on the search.
        """
        if number not in self._active:
            return TrialVerdict.STOP
        self._note_spent(number, spent)
        verdict = self._active[number]
        told = any(reached > step for reached, _ in self._of(number).curve)  # before the driver was killed
        if verdict is not TrialVerdict.GO_ON or told:
            return verdict
        if not all(map(math.isfinite, values)):
            self._study.note(number, "why", f"a metric was not finite at step {step}")
            self._active[number] = TrialVerdict.STOP
            return TrialVerdict.STOP
        self._study.report(number, step, values)
        if not is_last:
            self._active[number] = self._verdict(number)
        return self._active[number]

    def end(self, number: int, ended: TrialEnd, spent: TrialCost = TrialCost()) -> State:
        """A trial's process ended. Its state now; `running`: it is to be gone on with later."""
        verdict = self._active.pop(number, TrialVerdict.GO_ON)
        self._note_spent(number, spent)
        trial = self._of(number)
        state, why = self._ending(trial, ended, verdict)
        if why:
            self._study.note(number, "why", why)
        if ended.error is not None:
            self._study.note(number, "error", ended.error)
        if state == "running":
            if ended.status == "lost":
                self._study.note(number, "lost", int(trial.facts.get("lost", 0)) + 1)
            elif verdict is TrialVerdict.PAUSE and not self._is_spent():
                self._study.note(number, "waits", True)
            return state
        self._study.end(number, state, trial.newest if state == "finished" else None)
        return state

    def _ending(self, trial: Trial, ended: TrialEnd, verdict: TrialVerdict) -> tuple[State, str]:
        """(state, why) of a trial whose process ended."""
        if "why" in trial.facts and ended.status != "lost":
            return "failed", ""
        if ended.status == "failed":
            return "failed", ended.reason
        if ended.status == "lost":
            if int(trial.facts.get("lost", 0)) + 1 >= MOST_LOST:
                return "failed", f"its process was lost {MOST_LOST} times: {ended.reason}"
            return "running", ""
        if verdict is TrialVerdict.STOP:
            return "pruned", ""
        if ended.status == "interrupted" or verdict is TrialVerdict.PAUSE:
            return "running", ""
        if trial.newest is None:
            return "failed", f"it ended and never reported {', '.join(self._tune.metrics)}"
        return "finished", ""

    def _verdict(self, number: int) -> TrialVerdict:
        if self._is_spent():
            return TrialVerdict.PAUSE
        sign = {"min": 1.0, "max": -1.0}[self._tune.modes[0]]
        curves = {
            trial.number: [(step, sign * value) for step, value in trial.curve]
            for trial in self._own()
            if trial.curve
        }
        if number not in curves:  # several metrics: nothing is judged before its end
            return TrialVerdict.GO_ON
        if self._of(number).facts.get("round", -1) >= curves[number][-1][0]:  # reported anew after that round
            return TrialVerdict.GO_ON
        return judge(self._rules, number, curves)

    def _end_round(self) -> None:
        """Population-based training: when all members wait, the worst become copies of the best."""
        members = [trial for trial in self._own() if trial.state == "running"]
        if self._left() or not members or self._active or not all(t.facts.get("waits") for t in members):
            return
        sign = {"min": 1.0, "max": -1.0}[self._tune.modes[0]]
        curves = {trial.number: [(step, sign * value) for step, value in trial.curve] for trial in members}
        draw = random.Random(f"{self._seed}/{len(self._own())}")
        for loser, source in pbt_copies(self._rules, curves, draw.randrange).items():
            point = {
                name: neighbours(self._tune.space[name], value, draw.random())
                for name, value in self._of(source).point.items()
            }
            step = curves[source][-1][0]
            copied = {"copies": source, "replaces": loser, "round": step, "at": step}
            child = self._study.ask(point, copied)
            for step, value in self._of(source).curve:  # its past is the source's
                self._study.report(child.number, step, (value,))
            self._study.end(loser, "pruned", None)
            logger.info("trial %d goes on from trial %d in place of trial %d", child.number, source, loser)
        for trial in members:
            if self._of(trial.number).state == "running":
                self._study.note(trial.number, "round", trial.curve[-1][0])
                self._study.note(trial.number, "waits", False)

    def _is_spent(self) -> bool:
        budget = self._tune.budget
        trials = self._own()
        core_s, gpu_s = sum(spent_of(t).core_s for t in trials), sum(spent_of(t).gpu_s for t in trials)
        return self._stopping or (
            (budget.core_hours is not None and core_s >= 3600 * budget.core_hours)
            or (budget.gpu_hours is not None and gpu_s >= 3600 * budget.gpu_hours)
        )

    def _left(self) -> bool:
        """May new trials be made?"""
        made = [trial for trial in self._own() if "copies" not in trial.facts]
        if self._tune.searcher == "grid" and len(made) >= len(self._points):
            return False
        counted = sum("refused" not in trial.facts for trial in made)
        return self._tune.budget.trials is None or counted < self._tune.budget.trials

    def _waiting(self) -> list[Trial]:
        """Trials that were begun and do not run now; first new copies, before what they copy goes on."""
        idle = [trial for trial in self._own() if trial.state == "running" and trial.number not in self._active]
        ready = [trial for trial in idle if not trial.facts.get("waits")]
        return sorted(ready, key=lambda trial: ("copies" not in trial.facts or "spent" in trial.facts, trial.number))

    def _started(self, trial: Trial) -> Trial:
        self._active[trial.number] = TrialVerdict.GO_ON
        self._before[trial.number] = spent_of(trial)
        return trial

    def _note_spent(self, number: int, spent: TrialCost) -> None:
        if spent.seconds:
            total = self._before.get(number, TrialCost()).plus(spent)
            self._study.note(
                number, "spent", [round(total.seconds, 3), round(total.core_s, 3), round(total.gpu_s, 3)]
            )

    def _own(self) -> list[Trial]:
        return [trial for trial in self._study.trials() if trial.is_own]

    def _of(self, number: int) -> Trial:
        return next(trial for trial in self._study.trials() if trial.number == number)
