"""Trials on Ray Tune: each is a whole run, driven by a function without CPUs that reports what the run records.

Ray Tune starts, watches and counts the functions; what is tried, stopped and kept is decided by sweep.py, through a
Searcher that only passes on. A trial is ended by asking its workers to commit and stop, never by killing them, so
Tune's own STOP and PAUSE are not used; nothing that Tune writes is ever read (Tuner.restore would unpickle it).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray import tune as ray_tune
from ray.tune.search import Searcher

from raysft import storage
from raysft.errors import RaysftError
from raysft.recipe.change import change
from raysft.recipe.load import parse_recipe
from raysft.recipe.objective_traits import reference_columns
from raysft.recipe.schema import Recipe
from raysft.recipe.tune import TuneSection
from raysft.run.attempts import run_attempts
from raysft.run.run import train_trial
from raysft.run.rundir import run_location
from raysft.runtime.join import worker_runtime
from raysft.runtime.tune_runtime import HEAD_NODE_RESOURCES, trials_in
from raysft.search.in_process import run_here
from raysft.search.schedulers import TrialVerdict
from raysft.search.shared_host import ALLOCATOR_VARIABLES, shared_hosts
from raysft.search.shared_trial import shared_trial_function
from raysft.search.space import apply
from raysft.search.study import Trial
from raysft.search.sweep import Sweep, TrialCost, TrialEnd
from raysft.search.trial_stream import TrialStream
from raysft.train.commits.checkpoint import copy_commit
from raysft.train.watch import stop_requests


def is_warm(recipe: Recipe, tune: TuneSection) -> bool:
    """Can a trial train in its own process, which the next trial uses again? One worker, and no data or columns to be
    prepared: that needs CPUs while the trial holds its own."""
    of_columns = ("seed", "train.precision", "objective.temperature") if reference_columns(recipe) else ()
    fields = (
        "data.",
        "cluster.",
        "parallel.",
        "model.",
        "objective.kind",
        "objective.kl_",
        "objective.teacher",
        *of_columns,
    )
    moves = any(name.startswith(fields) for name in tune.space)
    return recipe.cluster.workers == 1 and recipe.data.mode == "prepared" and not moves


def trial_name(recipe: Recipe, number: int) -> str:
    """The run of a trial."""
    return f"{recipe.name}-{number}"


class SearchListener:
    """Follows a search; this one is silent."""

    def started(self, trial: Trial) -> None:
        """A trial begins, or goes on."""

    def reported(self, number: int, step: int, total: int, values: tuple[float, ...], verdict: TrialVerdict) -> None:
        """It measured something; total: steps of the whole trial."""

    def ended(self, number: int, state: str, why: str) -> None:
        """It is over, or (`running`) interrupted."""


@dataclass(frozen=True)
class Slots:
    """How many trials at a time, and where."""

    concurrent: int
    processes: int
    """Processes in which trials train together; 0: each by itself."""


def run_trials(
    recipe: Recipe, tune: TuneSection, sweep: Sweep, *, slots: Slots, out: str, listener: SearchListener
) -> None:
    """Run trials until the sweep is over. out: directory for what Tune writes; it is removed."""
    wants_tracebacks = logging.getLogger("raysft").isEnabledFor(logging.DEBUG)  # of trials that were lost, and go on
    logging.getLogger("ray.tune").setLevel(logging.ERROR if wants_tracebacks else logging.CRITICAL)
    variables = ALLOCATOR_VARIABLES if slots.processes else {}
    runtime = worker_runtime(recipe.cluster, **variables)  # of trials and hosts: one fork server makes both
    with trials_in(runtime), shared_hosts(recipe, slots.processes, slots.concurrent, runtime) as handles:
        searcher = _SweepSearcher(recipe, sweep, listener, handles)
        tuner = ray_tune.Tuner(
            _function(recipe, tune, handles),
            tune_config=ray_tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=slots.concurrent,
                reuse_actors=True,
                trial_name_creator=_tune_name,
                trial_dirname_creator=_tune_name,
            ),
            run_config=ray_tune.RunConfig(name=f"tune-{time.time_ns()}", storage_path=out, verbose=0),
        )
        try:
            tuner.fit()
        finally:
            storage.remove_tree(out)
    if searcher.error is not None:
        raise searcher.error


def _function(recipe: Recipe, tune: TuneSection, handles: list[Any]) -> Any:
    """What Tune runs for each trial, and what it reserves."""
    metrics, wanted = list[str](tune.metrics), recipe.cluster
    warm = is_warm(recipe, tune) and not handles
    own: dict[str, float] = {"CPU": wanted.cpus_per_worker, "GPU": wanted.gpus_per_worker}
    function = (
        partial(shared_trial_function, handles=handles, metrics=metrics)
        if handles
        else partial(trial_function, metrics=metrics, warm=warm)
    )
    return ray_tune.with_resources(function, ray_tune.PlacementGroupFactory([own if warm else HEAD_NODE_RESOURCES]))


class _SweepSearcher(Searcher):
    """Ray Tune's searcher: what Tune calls becomes a call of the sweep."""

    def __init__(self, recipe: Recipe, sweep: Sweep, listener: SearchListener, handles: list[Any]) -> None:
        super().__init__()
        self._recipe, self._sweep, self._listener, self._handles = recipe, sweep, listener, handles
        self._sent = 0
        self._numbers: dict[str, int] = {}
        self._hosts: dict[int, int] = {}  # a trial stays with its host, which knows whether it still trains it
        self._ends: dict[int, TrialEnd] = {}
        self._spent: dict[int, TrialCost] = {}
        self.error: RaysftError | None = None
        """What ended the search. Raised through Tune it would be one of Tune's own, with a traceback for its text."""

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None: none now."""
        try:
            trial = self._sweep.next() if self.error is None else None
        except RaysftError as error:
            self.error, trial = error, None
            self._sweep.stop()
        if trial is None:
            return Searcher.FINISHED if self._sweep.is_over else None
        self._numbers[trial_id] = trial.number
        self._listener.started(trial)
        recipe = apply(self._recipe, trial_name(self._recipe, trial.number), trial.point)
        try:
            if "copies" in trial.facts:
                step = trial.facts.get("at", trial.facts["round"])
                copy_commit(self._run(trial.facts["copies"]), run_location(recipe), step)
        except RaysftError as error:
            self._ends[trial.number] = TrialEnd("failed", " ".join(str(error).split()))
            self._end(trial_id)
            return None
        fields = json.dumps(recipe.model_dump(mode="json"))
        self._sent += 1
        config: dict[str, Any] = {
            "number": trial.number,
            "order": self._sent,
            "recipe": fields,
            "pause_step": self._sweep.pause_step(trial),
        }
        if self._handles:
            config["host"] = self._hosts.setdefault(trial.number, self._idlest())
            self._handles[config["host"]].begin.remote(config)  # before Tune has a process that follows it
        return config

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report, or the last words of a trial."""
        with self._going_on():
            self._hear(self._numbers[trial_id], json.loads(result["message"]))

    def _hear(self, number: int, message: dict[str, Any]) -> None:
        self._spent[number] = TrialCost(**message["spent"])
        if "ended" in message:
            self._ends[number] = TrialEnd(**message["ended"])
            return
        values, was_judged = tuple(message["values"]), self._sweep.is_judged(number)
        verdict = self._sweep.report(
            number, message["step"], values, self._spent[number], is_last=message["step"] >= message["total"]
        )
        if was_judged:
            return
        self._listener.reported(number, message["step"], message["total"], values, verdict)
        if verdict is not TrialVerdict.GO_ON:
            stop_requests.request(self._run(number), stop_requests.Notice.STOP)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Its function returned, or was lost. result: the newest report, which may not have been passed on."""
        if result is not None and not error:
            self.on_trial_result(trial_id, result)
        self._end(trial_id)

    def _end(self, trial_id: str) -> None:
        number = self._numbers.pop(trial_id)
        ended = self._ends.pop(number, TrialEnd("lost", "its process died"))
        with self._going_on():
            state = self._sweep.end(number, ended, self._spent.pop(number, TrialCost()))
            self._listener.ended(number, state, ended.reason)

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Inside, an error (of the database, of storage) ends the search: its running trials commit and end."""
        try:
            yield
        except RaysftError as error:
            self.error = self.error or error
            self._sweep.stop()
            for number in self._sweep.active:
                with suppress(RaysftError):  # a storage that is full: the trial waits for it, and then ends
                    stop_requests.request(self._run(number), stop_requests.Notice.STOP)

    def _idlest(self) -> int:
        """The host with the fewest trials now."""
        busy = [self._hosts.get(number) for number in self._numbers.values()]
        return min(range(len(self._handles)), key=busy.count)

    def _run(self, number: int) -> str:
        return run_location(change(self._recipe, {"name": trial_name(self._recipe, number)}))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: all of it is in the study."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it was given, also locks and bars; nobody reads that."""
        return {}

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a search goes on from its study."""


def _tune_name(trial: Any) -> str:
    return f"trial-{trial.config['number']}-{trial.trial_id}"


def trial_function(config: dict[str, Any], metrics: list[str], warm: bool) -> None:
    """Ray Tune's trainable: train the run, report what it records. warm: with no worker of its own."""

    def train(recipe: Recipe, planned: Callable[[int], None]) -> str:
        return train_trial(recipe, planned, run_here if warm else run_attempts, config["pause_step"])

    recipe = parse_recipe(json.loads(config["recipe"]))
    for message in TrialStream(recipe, train).messages(metrics):
        ray_tune.report({"message": message})
