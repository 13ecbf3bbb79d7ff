"""Trials in a database, and what proposes the next one: the only importer of Optuna.

Everything that a search knows is in the study, written before it is acted on, so that a killed driver loses nothing.
The sampler is made anew for each proposal, from (seed, number of trials): one made once and seeded would repeat its
first proposals after a restart. Nothing is unpickled: Optuna's own CMA-ES is not used because it keeps its state as a
pickle in the database (cmaes_sampler.py instead).
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.importance import get_param_importances
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from raysft import sealed
from raysft.errors import ConflictError
from raysft.recipe.fingerprint import differences
from raysft.recipe.tune import Choice, Distribution, Int, LogUniform, TuneSection
from raysft.search.cmaes_sampler import propose
from raysft.search.database import SEAL, answering, check_seals, search_of
from raysft.search.space import Point, holds, ordered

State = Literal["running", "finished", "pruned", "failed"]

_STATES: dict[State, TrialState] = {
    "running": TrialState.RUNNING,
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_NAMES = {state: name for name, state in _STATES.items()}

IMPORTED = "from"
"""User attribute of a trial that warm_start took from another study: [its name, the trial's number]."""


@dataclass(frozen=True)
class Trial:
    """One trial as the study knows it."""

    number: int
    point: Point
    state: State
    values: tuple[float, ...] | None
    """Each metric at the trial's end; a pruned trial with one metric has its last report."""
    curve: tuple[tuple[int, float], ...]
    """(step, first metric), by step."""
    facts: Mapping[str, Any]
    """What was noted about it: its cost, why it ended."""

    @property
    def newest(self) -> tuple[float, ...] | None:
        """What it last reported, of each metric; None before the first."""
        if self.curve:
            return (self.curve[-1][1],)
        return tuple(self.facts["newest"]) if "newest" in self.facts else None

    @property
    def is_own(self) -> bool:
        """Not imported from an earlier study."""
        return IMPORTED not in self.facts


class Study:
    """One search. Not thread-safe; one driver at a time (sweep.py holds a lease)."""

    def __init__(self, url: str | None, name: str, tune: TuneSection, *, seed: int, base: Point) -> None:
        """Open it, or make it. url None: in memory. base: the recipe's fields, for `when`. Raises StorageError."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._tune, self._seed, self._base = tune, seed, base
        self._space = ordered(tune.space)
        directions = [StudyDirection.MINIMIZE if mode == "min" else StudyDirection.MAXIMIZE for mode in tune.modes]
        self._url = url or "in memory"
        with answering(self._url):
            self._storage = optuna.storages.get_storage(url)
            self._study = optuna.create_study(
                storage=self._storage, study_name=name, directions=directions, load_if_exists=True
            )
            self._id = self._storage.get_study_id_from_name(name)
            found = self._study.get_trials(deepcopy=False)
            check_seals(self._url, self._study.user_attrs, {trial.number: _seal(trial) for trial in found})

    def claim(
        self, search: Mapping[str, Any], same: Callable[[str, Any, Any], bool] = lambda name, a, b: bool(a == b)
    ) -> None:
        """Note what is searched, or check that it is the same as before. Raises ConflictError, StorageError.

        same(field, before, now): are two values that differ as text one?
        """
        search = json.loads(json.dumps(search))
        with answering(self._url):
            stored = search_of(self._url, self._study.user_attrs, len(self._study.get_trials(deepcopy=False)))
            if stored is None:
                self._study.set_user_attr("search", sealed.sealed(search))
        if stored is None:
            return
        if found := differences(stored, search, same):
            raise ConflictError(
                f"the study {self._study.study_name} exists with another search",
                got="; ".join(found),
                expected="the same space, metrics and recipe: the budget, scheduler and cluster may change",
                fix="give this search another `name`; `tune.warm_start: [NAME]` learns from the old one",
            )
        new = {name: value for name, value in search.items() if value is not None and stored.get(name) is None}
        if new:  # what an earlier version did not know
            with answering(self._url):
                self._study.set_user_attr("search", sealed.sealed({**stored, **new}))

    def trials(self) -> list[Trial]:
        """All of them by number, imported ones as well."""
        found = self._study.get_trials(deepcopy=False)
        return [self._trial(trial) for trial in found if trial.state is not TrialState.WAITING]

    def ask(self, point: Point | None = None, facts: Mapping[str, Any] | None = None) -> Trial:
        """A new trial, running. point: values to use; fields that it lacks are drawn."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if point is not None and not waiting:  # one that waits was put there just before the driver was killed
            fixed = {name: _encode(self._space[name], value) for name, value in point.items() if name in self._space}
            self._study.enqueue_trial(fixed, user_attrs=dict(facts or {}))
        number = len(self._study.get_trials(deepcopy=False))
        seed = _seed(self._seed, number)
        if self._tune.searcher == "cmaes" and point is None and not waiting:
            self._study.enqueue_trial(propose(self._space, self._told(), seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental ones
            self._study.sampler = SAMPLERS[self._tune.searcher](seed, self._seed)
            with answering(self._url):
                trial = self._study.ask()
            chosen: Point = {}
            for name, distribution in self._space.items():
                if holds(distribution.when, chosen, self._base):
                    chosen[name] = _suggest(trial, name, distribution)
        return next(t for t in self.trials() if t.number == trial.number)

    def report(self, number: int, step: int, values: tuple[float, ...]) -> None:
        """Metrics of a running trial at a step. Optuna keeps a curve where there is one metric."""
        if len(values) == 1:
            with answering(self._url):
                self._storage.set_trial_intermediate_value(self._trial_id(number), step, values[0])
        else:
            self.note(number, "newest", values)

    def note(self, number: int, key: str, value: Any) -> None:
        """Keep a fact about a trial."""
        with answering(self._url):
            self._storage.set_trial_user_attr(self._trial_id(number), key, value)

    def end(self, number: int, state: State, values: tuple[float, ...] | None) -> None:
        """The trial is over. values: of a finished one."""
        with answering(self._url):
            self._study.tell(number, values=list(values) if values else None, state=_STATES[state])
            ended = next(trial for trial in self._study.get_trials(deepcopy=False) if trial.number == number)
            self._study.set_user_attr(f"{SEAL}-{number}", _seal(ended))

    def best(self) -> list[Trial]:
        """The best finished trial, or the Pareto front; [] when none has finished."""
        if not any(t.state is TrialState.COMPLETE for t in self._study.get_trials(deepcopy=False)):
            return []
        return sorted(map(self._trial, self._study.best_trials), key=lambda trial: trial.number)

    def importances(self, metric: int = 0) -> dict[str, float]:
        """Optuna's importance of each field for a metric (PED-ANOVA, Watanabe et al. 2023); {}: too few trials."""
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(finished) < 4:
            return {}
        target = (lambda trial: trial.values[metric]) if len(self._tune.metrics) > 1 else None
        try:
            return {name: float(share) for name, share in get_param_importances(self._study, target=target).items()}
        except (ValueError, RuntimeError):  # all values equal, a field that every trial shares
            return {}

    def warm_start(self, names: tuple[str, ...]) -> int:
        """Take over the ended trials of earlier studies that lie in this space. Returns how many were new."""
        known = [trial.facts[IMPORTED] for trial in self.trials() if not trial.is_own]
        added = 0
        for name in names:
            try:
                other = optuna.load_study(study_name=name, storage=self._storage)
            except KeyError:
                raise ConflictError(
                    f"tune.warm_start names no study: {name}",
                    got=", ".join(optuna.get_all_study_names(self._storage)) or "an empty database",
                    expected="a study of the same storage or database",
                    fix="check the name, or set tune.study to the database that holds it",
                ) from None
            for trial in other.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)):
                source = [name, trial.number]
                if source not in known and self._fits(trial) and IMPORTED not in trial.user_attrs:
                    trial.user_attrs = {IMPORTED: source}
                    trial.distributions = {n: _as_optuna(self._space[n]) for n in trial.params}
                    self._study.add_trial(trial)
                    added += 1
        return added

    def _fits(self, trial: FrozenTrial) -> bool:
        """Has it these fields, with values in their ranges, and as many metrics?"""
        if trial.values is not None and len(trial.values) != len(self._tune.metrics):
            return False
        return trial.params.keys() <= self._space.keys() and all(
            _as_optuna(self._space[name])._contains(_internal(self._space[name], value))
            for name, value in trial.params.items()
        )

    def _told(self) -> list[tuple[Point, float]]:
        """TrialEnd trials with what they reached, less being better."""
        sign = {"min": 1.0, "max": -1.0}[self._tune.modes[0]]
        ended = [trial for trial in self.trials() if trial.state in ("finished", "pruned") and trial.values]
        return [(trial.point, sign * trial.values[0]) for trial in ended if trial.values]

    def _trial_id(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._id, number))

    def _trial(self, trial: FrozenTrial) -> Trial:
        curve = tuple(sorted(trial.intermediate_values.items()))
        return Trial(
            number=trial.number,
            point={name: _decode(self._space[name], value) for name, value in trial.params.items()},
            state=_NAMES[trial.state],
            values=tuple(trial.values) if trial.values else None,
            curve=curve,
            facts=trial.user_attrs,
        )


SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "grid": lambda seed, fixed: optuna.samplers.RandomSampler(seed=seed),  # its points are given
    "random": lambda seed, fixed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed, fixed: optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True
    ),
    "gp": lambda seed, fixed: optuna.samplers.GPSampler(seed=seed, deterministic_objective=False),
    "cmaes": lambda seed, fixed: optuna.samplers.RandomSampler(seed=seed),  # and from cmaes_sampler.py
    "nsga2": lambda seed, fixed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "qmc": lambda seed, fixed: optuna.samplers.QMCSampler(seed=fixed, scramble=True),
}
"""tune.searcher -> Optuna's sampler. Arguments: a seed for this proposal, and the recipe's. A quasi-random
sequence is one sequence: its place in it is kept in the study."""


def _seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def _suggest(trial: optuna.Trial, name: str, distribution: Distribution) -> Any:
    if isinstance(distribution, Choice):
        chosen = trial.suggest_categorical(name, [_encode(distribution, value) for value in distribution.values])
        return _decode(distribution, chosen)
    if isinstance(distribution, Int):
        step = 1 if distribution.log else distribution.step
        return trial.suggest_int(name, distribution.low, distribution.high, step=step, log=distribution.log)
    is_log = isinstance(distribution, LogUniform)
    return trial.suggest_float(name, distribution.low, distribution.high, log=is_log)


def _as_optuna(distribution: Distribution) -> BaseDistribution:
    if isinstance(distribution, Choice):
        values = [_encode(distribution, value) for value in distribution.values]
        return optuna.distributions.CategoricalDistribution(values)
    if isinstance(distribution, Int):
        return IntDistribution(distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    return FloatDistribution(distribution.low, distribution.high, log=isinstance(distribution, LogUniform))


def _internal(distribution: Distribution, value: Any) -> float:
    """As Optuna compares it with a range; outside every range where it cannot be a value."""
    try:
        return float(_as_optuna(distribution).to_internal_repr(value))
    except ValueError:
        return math.nan


def _encode(distribution: Distribution, value: Any) -> Any:
    """Optuna keeps scalars only: lists and mappings go in as JSON."""
    return json.dumps(value) if isinstance(distribution, Choice) and isinstance(value, list | dict) else value


def _decode(distribution: Distribution, value: Any) -> Any:
    if isinstance(distribution, Choice):
        return next(v for v in distribution.values if _encode(distribution, v) == value)
    return value


def _seal(trial: FrozenTrial) -> str:
    """Checksum of what a search learns from a trial."""
    curve = sorted(trial.intermediate_values.items())
    return sealed.checksum(
        {"params": trial.params, "values": trial.values, "curve": curve, "state": trial.state.name}
    )
