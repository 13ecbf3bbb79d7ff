"""`raysft tune`: one recipe with a `tune:` section, searched to the end of its budget; and the report about it.

<storage>/sweeps/<name>/study.db      the trials (or in the database of tune.study)
<storage>/sweeps/<name>/best.yaml     the best recipe, ready for `raysft train`
<storage>/sweeps/<name>/report.html   and charts/
<storage>/runs/<name>-<number>/       each trial, a run like any other
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import yaml

from raysft import errors, storage
from raysft.data.prepare.prepare import prepare
from raysft.lease import lease
from raysft.model.facts import read_facts
from raysft.observe.tune_report import SearchFacts, TrialFacts, render_search, search_lines
from raysft.recipe.change import change
from raysft.recipe.fingerprint import split_fields
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.resolve import resolve
from raysft.recipe.schema import Recipe
from raysft.recipe.secrets import hidden
from raysft.recipe.tune import TuneSection
from raysft.recipe.tune_checks import advice_at_a_time, check_place, check_tune, tune_advice
from raysft.recipe.tune_executor import TRIALS_PER_HOST, is_fused, trials_at_a_time
from raysft.run import reference
from raysft.run.base_weights import base_fingerprint
from raysft.run.layout_choice import choose_layout
from raysft.run.locations import BASE, same_in_search
from raysft.run.progress import PrepareProgress
from raysft.run.run import check_before_ray
from raysft.run.rundir import run_location
from raysft.run.signals import asking
from raysft.runtime.join import cluster
from raysft.search.progress import SearchProgress
from raysft.search.room import Room, await_room
from raysft.search.space import Point, apply, check_space
from raysft.search.study import Study, Trial
from raysft.search.sweep import Sweep, spent_of
from raysft.search.tune_driver import Slots, run_trials, trial_name
from raysft.train.watch import stop_requests

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """A search as far as it has come; its page, pictures and best recipe are written."""

    facts: SearchFacts
    directory: str
    best: Recipe | None
    """The best trial's recipe, ready to train; None before a trial has finished."""
    report: str
    """Location of the page."""
    best_recipe: str | None
    """Location of the best recipe's file."""

    def lines(self) -> list[str]:
        """The table and what was written, for a terminal."""
        more = [f"report       {self.report}"]
        if self.best_recipe is not None:
            more.append(f"best recipe  {self.best_recipe}")
        return [*search_lines(self.facts), *more]


def search(recipe: Recipe) -> SearchResult:
    """Run the search of a recipe to the end of its budget, or go on with it. Raises RaysftError."""
    recipe = with_absolute_paths(recipe)
    tune, directory = check_tune(recipe), search_directory(recipe)
    check_space(recipe, tune)
    if is_finished(recipe, tune):
        logger.info("the search %s is finished already; nothing was changed but its report", recipe.name)
        return _result(recipe, tune, open_study(recipe, tune))
    check_before_ray(recipe)
    for line in tune_advice(tune):
        logger.warning("%s", line)
    storage.check_writable(directory)
    with lease(storage.join(directory, "driver"), waiting=partial(_refuse_second, directory)):
        study = open_study(recipe, tune)
        imported = study.warm_start(tune.warm_start)
        if imported:
            logger.info("warm start   %d trials of %s", imported, ", ".join(tune.warm_start))
        with cluster():
            room = await_room(recipe, tune)
            with PrepareProgress() as progress:
                prepared = prepare(recipe, progress=progress)
            reference.find_or_make(recipe, prepared)
            sweep = Sweep(recipe, tune, study, admit=partial(_refusal, recipe, room))
            with _limited(recipe, tune, sweep):
                slots = _slots(recipe, tune, room.trials)
                together = f", together in {slots.processes} processes" if slots.processes else ""
                logger.info("search       %s, %d at a time%s", _words(tune), slots.concurrent, together)
                for line in advice_at_a_time(tune, slots.concurrent):
                    logger.warning("%s", line)
                out = storage.join(directory, "ray")
                with SearchProgress(tune, [trial for trial in study.trials() if trial.is_own]) as listener:
                    run_trials(recipe, tune, sweep, slots=slots, out=out, listener=listener)
        return _result(recipe, tune, study)


def report(recipe: Recipe) -> SearchResult:
    """A search as far as it has come. Raises UserError when it has not begun."""
    recipe = with_absolute_paths(recipe)
    tune, directory = check_tune(recipe), search_directory(recipe)
    check_space(recipe, tune)
    if tune.study is None and not storage.exists(storage.join(directory, "study.db")):
        raise errors.UserError(
            f"there is no search {recipe.name}",
            got=f"nothing at {directory}",
            expected="a search that has begun",
            fix="run `raysft tune` first, or check `name` and `storage`",
        )
    return _result(recipe, tune, open_study(recipe, tune))


def is_finished(recipe: Recipe, tune: TuneSection) -> bool:
    """Has this search begun, and is nothing of its budget left? Told without a cluster."""
    directory = search_directory(recipe)
    if tune.study is None and not storage.exists(storage.join(directory, "study.db")):
        return False
    study = open_study(recipe, tune)
    trials = [trial for trial in study.trials() if trial.is_own]
    if not trials or any(trial.state == "running" for trial in trials):
        return False
    return Sweep(recipe, tune, study, admit=lambda point: None).is_over


def search_directory(recipe: Recipe) -> str:
    """`<storage>/sweeps/<name>`, absolute."""
    return storage.join(storage.absolute(recipe.storage), "sweeps", recipe.name)


def open_study(recipe: Recipe, tune: TuneSection) -> Study:
    """The study of a recipe, made when it is not there. Raises ConflictError, StorageError."""
    directory = search_directory(recipe)
    check_place(recipe, tune)
    base = recipe.model_dump(mode="json")
    study = Study(tune.study or f"sqlite:///{directory}/study.db", recipe.name, tune, seed=recipe.seed, base=base)
    space = {f"space.{name}": distribution.model_dump(mode="json") for name, distribution in tune.space.items()}
    data = {f"data.{name}": value for name, value in base["data"].items()}
    fixed = hidden({**split_fields(recipe)[0], **data})
    search = {**space, "metrics": tune.metrics} | {n: v for n, v in fixed.items() if n not in tune.space}
    if "model.source" not in tune.space:
        search[BASE] = base_fingerprint(recipe)
    study.claim(search, partial(same_in_search, storage.join(directory, "")))
    return study


def _slots(recipe: Recipe, tune: TuneSection, workers: int) -> Slots:
    """How the trials share the cluster, which holds so many workers."""
    if not is_fused(recipe, tune, workers):
        return Slots(tune.concurrent or workers, processes=0)
    concurrent = trials_at_a_time(tune, TRIALS_PER_HOST * workers)
    return Slots(concurrent, processes=min(workers, concurrent))


def _refusal(recipe: Recipe, room: Room, point: Point) -> str | None:
    """Why a point cannot be run on this cluster: rules over several fields, the layout, memory that is known.

    Whether one that needs more nodes than are there can have them, the autoscaler says when it is tried.
    """
    try:
        trial = with_absolute_paths(apply(recipe, recipe.name, point))
        resolve(trial, read_facts(trial), None if room.grows else room.nodes)
        choose_layout(trial, room.nodes)
    except errors.UserError as error:
        return f"{error.what}: {error.got}"
    return None


@contextmanager
def _limited(recipe: Recipe, tune: TuneSection, sweep: Sweep) -> Iterator[None]:
    """Inside, a signal or the end of wall_hours has the running trials commit and end. Raises InterruptedRunError."""
    signalled = threading.Event()

    def halt() -> None:
        sweep.stop()
        for number in sweep.active:
            run = run_location(change(recipe, {"name": trial_name(recipe, number)}))
            stop_requests.request(run, stop_requests.Notice.STOP)

    def asked() -> None:
        signalled.set()
        halt()

    timer = threading.Timer(3600 * (tune.budget.wall_hours or 0), halt)
    timer.daemon = True
    if tune.budget.wall_hours is not None:
        timer.start()
    try:
        with asking(asked):
            yield
    finally:
        timer.cancel()
    if signalled.is_set():
        raise errors.InterruptedRunError(
            "the search was asked to stop; its running trials have committed",
            fix="run the same command to go on from there",
        )


def _words(tune: TuneSection) -> str:
    limits = ", ".join(
        f"{value:g} {name.replace('_', ' ')}" for name, value in tune.budget.model_dump().items() if value
    )
    return f"{tune.searcher}, scheduler {tune.scheduler.kind}, {limits or 'the whole grid'}"


def _result(recipe: Recipe, tune: TuneSection, study: Study) -> SearchResult:
    """What was found. The page, its pictures and the best recipe's file are written."""
    directory, best, text = search_directory(recipe), [trial for trial in study.best() if trial.is_own], ""
    chosen, best_recipe, page_location = None, None, storage.join(directory, "report.html")
    if best:
        trial = best[0]
        chosen = with_absolute_paths(apply(recipe, trial_name(recipe, trial.number), trial.point))
        fields = chosen.model_dump(mode="json", exclude_defaults=True)
        best_recipe = storage.join(directory, "best.yaml")
        storage.write_bytes(best_recipe, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).encode())
        text = yaml.safe_dump(hidden(fields), sort_keys=False, allow_unicode=True)
    facts = SearchFacts(
        name=recipe.name,
        metrics=tune.metrics,
        modes=tune.modes,
        fields=tuple(tune.space),
        trials=[_facts(trial) for trial in study.trials() if trial.is_own],
        best=tuple(trial.number for trial in best),
        importances={metric: study.importances(i) for i, metric in enumerate(tune.metrics)},
    )
    page, pictures = render_search(facts, text)
    storage.write_bytes(page_location, page.encode())
    for name, picture in pictures.items():
        storage.write_bytes(storage.join(directory, "charts", name), picture)
    return SearchResult(facts, directory, chosen, page_location, best_recipe)


def _facts(trial: Trial) -> TrialFacts:
    spent = spent_of(trial)
    return TrialFacts(
        number=trial.number,
        point=trial.point,
        state=trial.state,
        values=trial.values or trial.newest or (),
        curve=trial.curve,
        seconds=spent.seconds,
        core_s=spent.core_s,
        gpu_s=spent.gpu_s,
        why=str(trial.facts.get("refused") or trial.facts.get("why") or ""),
    )


def _refuse_second(directory: str, holder: str) -> None:
    raise errors.ConflictError(
        f"another command drives the search {directory}",
        got=f"{holder}, which is alive",
        expected="one driver for each search",
        fix="wait for it, or end it (the next command goes on with its trials), or choose another name",
    )
