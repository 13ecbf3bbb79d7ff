"""One recipe, one run: prepare -> train -> evaluate -> export -> report. Every step is found done or done now.

The driver decides and reports; it holds no tensor. Running the same recipe again resumes where it ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from raysft import errors, storage
from raysft.data.prepare.prepare import prepare, train_fingerprint
from raysft.data.prepare.prepared import Prepared
from raysft.data.report.preview import certificate
from raysft.data.text.stops import stop_token_ids
from raysft.data.text.tokenizer import tokenizer_source
from raysft.evaluate.scorers import check_metrics
from raysft.lease import lease
from raysft.model.facts import check_vocabulary, read_facts
from raysft.model.files import check_weights
from raysft.model.load import rows_for
from raysft.model.rehearsal import rehearse
from raysft.recipe.evaluation_sets import ignored
from raysft.recipe.facts import ClusterFacts, DataFacts, ModelFacts
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.resolve import ResolvedRun, Schedule, fitting_workers, resolve, schedule, with_workers
from raysft.recipe.schema import Recipe
from raysft.run import adapter_start, reference, remote_tasks, summary
from raysft.run.attempts import as_error, run_attempts
from raysft.run.before_after import before_and_after
from raysft.run.evaluations import Evaluated, by_set
from raysft.run.export_tasks import export_by_tasks
from raysft.run.layout_choice import check_tasks, choose_layout
from raysft.run.nodes import await_first_nodes
from raysft.run.placement import placement_line
from raysft.run.progress import PrepareProgress, TrainingProgress
from raysft.run.rundir import (
    check_base,
    check_data,
    check_same_recipe,
    claim,
    has_same_data_fields,
    read_result,
    run_location,
    write_result,
)
from raysft.run.signals import stopping
from raysft.run.tracking import Tracking, check_trackers, tracking
from raysft.runtime.gauges import RunGauges
from raysft.runtime.join import cluster, cluster_facts
from raysft.train.commits.checkpoint import remove_orphans
from raysft.train.commits.lineage import newest_attempt
from raysft.train.history.spans import Driver, driving
from raysft.train.state import Outcome
from raysft.train.worker_input import AttemptInput

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run: str
    """Its directory."""
    steps: int
    before: dict[str, Any] | None
    """What was measured of the untrained model, by set; None without a set."""
    after: dict[str, Any] | None
    exports: tuple[str, ...]
    report: str
    profiles: tuple[str, ...] = ()
    """Traces that --profile left."""
    ended: str = ""
    """Why it ended before its last step; empty: it did not."""
    was_finished: bool = False
    """It had finished before this command; nothing was changed."""


@dataclass(frozen=True)
class _Plan:
    """A run, ready to train."""

    recipe: Recipe
    """With absolute paths, and the most workers."""
    model: ModelFacts
    run: str
    resolved: ResolvedRun
    """With as many workers as there is room for."""
    schedule: Schedule
    prepared: Prepared
    columns: reference.ReferenceColumns
    fingerprints: dict[str, str]
    memory: str
    """The planner's breakdown."""

    @property
    def report(self) -> summary.RunReport:
        """The run's page."""
        told = [*self.resolved.describe(), *self.schedule.describe()]
        proof = certificate(self.prepared.train_manifest)
        return summary.RunReport(self.run, self.recipe, told, proof, self.fingerprints)


def run_training(recipe: Recipe, *, profile_steps: int = 0) -> RunResult:
    """Bring the run that a recipe names to its end. Raises RaysftError.

    profile_steps: steps of rank 0 that a torch profiler traces into the run's `profile` directory.
    """
    began, recipe = time.monotonic_ns(), with_absolute_paths(recipe)
    run = run_location(recipe)
    check_same_recipe(run, recipe)
    finished = read_result(run)
    if finished is not None:
        if not has_same_data_fields(run, recipe):
            check_data(run, recipe, train_fingerprint(recipe))
        return replace(_result(run, finished), was_finished=True)
    trained = check_before_ray(recipe)
    storage.check_writable(run)
    spent = time.monotonic_ns() - began
    held = lease(storage.join(run, "driver"), waiting=partial(_refuse_second, run))
    with held, driving(run, spent) as driver, cluster():
        await_first_nodes(recipe)
        nodes = cluster_facts()
        check_tasks(recipe, nodes)
        plan = _plan(recipe, run, nodes, driver, trained)
        with plan.report.kept(), tracking(run, recipe, plan.fingerprints) as tracked:
            result = _trained(plan, profile_steps, driver, tracked)
        driver.phase("start")  # and its end
    result["report"] = plan.report.write("finished", result["ended"])
    remove_orphans(run)
    for leftover in ("ray", "requests", "driver"):
        storage.remove_tree(storage.join(run, leftover))
    result["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_result(run, result, plan.fingerprints)
    return _result(run, result)


def _trained(plan: _Plan, profile_steps: int, driver: Driver, tracked: Tracking) -> dict[str, Any]:
    """What a finished run's record says of its training, what was measured around it, and the exports."""
    of = Evaluated(plan.run, plan.recipe, plan.prepared, plan.fingerprints)
    training = partial(_train, plan, profile_steps, driver, tracked)
    before, after = before_and_after(of, training, driver.phase)
    state = remote_tasks.newest_checkpoint(plan.run, is_verified=False).state  # verified by the task
    tracked.evaluated(before, after, state.step)
    driver.phase("export")
    card = summary.card_facts(state, plan.prepared, plan.fingerprints, before, after)
    told = {"before": before and {"sets": before}, "after": after and {"sets": after}}
    exports = export_by_tasks(plan.recipe, plan.run, card, plan.prepared.eval_stores)
    return {"steps": state.step, "ended": state.ended, **told, "exports": exports}


def _refuse_second(run: str, holder: str) -> None:
    raise errors.ConflictError(
        f"another command drives the run {run}",
        got=f"{holder}, which is alive",
        expected="one driver for each run",
        fix="wait for it, or end it (the next command goes on from the last checkpoint), or choose another name",
    )


def check_before_ray(recipe: Recipe) -> list[str]:
    """What can be refused within seconds, and before the run's name is taken. Returns what will be trained, in lines.

    Raises UserError.
    """
    facts = read_facts(recipe)
    resolve(recipe, facts, None)
    check_trackers(recipe)
    check_weights(recipe)
    check_metrics(recipe)
    reference.check(recipe)
    tokenizer = remote_tasks.export_tokenizer(recipe)
    check_vocabulary(recipe, facts.vocab_size, rows_for(tokenizer))
    trained = rehearse(recipe, tokenizer, stop_token_ids(recipe, tokenizer)) + ignored(recipe)
    if facts.router_loss:
        weight = f"router_aux_loss_coef {facts.router_loss:g}"
        told = f"left out: this base's config asks for it ({weight}); only the answers' loss is trained"
        trained.append(f"router loss  {told}")
    return trained


def _result(run: str, record: dict[str, Any]) -> RunResult:
    return RunResult(
        run=run,
        steps=record["steps"],
        ended=record.get("ended", ""),
        before=by_set(record["before"]),
        after=by_set(record["after"]),
        exports=tuple(record["exports"]),
        report=record["report"],
        profiles=tuple(
            storage.join(run, "profile", name) for name in storage.list_names(storage.join(run, "profile"))
        ),
    )


def _plan(recipe: Recipe, run: str, nodes: ClusterFacts, driver: Driver, trained: Sequence[str] = ()) -> _Plan:
    """Everything that is known before the first worker starts, said aloud."""
    wanted = recipe.cluster
    choice = choose_layout(recipe, nodes)
    absolute = choice.recipe
    first = with_workers(absolute, fitting_workers(absolute, nodes.nodes) or wanted.min_workers or wanted.workers)
    resolved = resolve(first, choice.model, nodes)
    for line in [*resolved.describe(), *trained, *choice.lines]:
        logger.info(line)
    started = time.monotonic()
    driver.phase("prepare")
    with PrepareProgress() as progress:
        prepared = prepare(absolute, progress=progress)
    logger.info("data         %s (%.1f s)", prepared.train or "streamed", time.monotonic() - started)
    for line in certificate(prepared.train_manifest):
        logger.info("             %s", line)
    steps = schedule(resolved, DataFacts(prepared.train_manifest["counts"].get("rows")))
    for line in steps.describe():
        logger.info(line)
    fingerprints = claim(run, recipe, prepared.train_manifest["fingerprint"])
    columns = reference.find_or_make(absolute, prepared)
    adapter_start.find_or_make(absolute, run, prepared.train)
    driver.phase("start")
    return _Plan(absolute, choice.model, run, resolved, steps, prepared, columns, fingerprints, choice.memory)


Attempts = Callable[[str, Recipe, Callable[[Recipe], AttemptInput]], Outcome]


def train_trial(
    recipe: Recipe, planned: Callable[[int], None], attempts: Attempts = run_attempts, pause_step: int | None = None
) -> str:
    """Only the training of a run, as one trial of a search: no evaluation besides its own, no export, no report.

    planned(steps) is told its length before it starts. attempts: what trains. pause_step: where to commit and end.
    Returns `finished` or, when it was asked to stop or has paused, `interrupted`. Raises RaysftError. The lease is
    the search's.
    """
    recipe = with_absolute_paths(recipe)
    run = run_location(recipe)
    check_same_recipe(run, recipe)

    def pausing(run: str, recipe: Recipe, make_input: Callable[[Recipe], AttemptInput]) -> Outcome:
        return attempts(run, recipe, lambda sized: replace(make_input(sized), pause_step=pause_step))

    with driving(run) as driver, cluster():
        await_first_nodes(recipe)
        plan = _plan(recipe, run, cluster_facts(), driver)
        planned(plan.schedule.total_steps)
        outcome = _attempts(plan, 0, driver, pausing)
    if outcome.status not in ("finished", "interrupted"):
        raise as_error(run, outcome)
    return outcome.status


def _train(plan: _Plan, profile_steps: int, driver: Driver, tracked: Tracking) -> None:
    """From the newest commit to the last step. Raises what the attempts' outcome stands for."""
    every, gauges = plan.recipe.train.log_every_steps, RunGauges(plan.recipe.name)
    placement, steps = partial(placement_line, plan.run, plan.recipe), plan.schedule.total_steps
    told = TrainingProgress(plan.run, steps, every, gauges, plan.report.keep, placement, tracked=tracked)
    with told, stopping(plan.run):
        outcome = _attempts(plan, profile_steps, driver)
    if outcome.status != "finished":
        raise as_error(plan.run, outcome)
    if outcome.reason:
        logger.warning("the run ends with step %d of %d: %s", outcome.step, steps, outcome.reason)


def _attempts(plan: _Plan, profile_steps: int, driver: Driver, attempts: Attempts = run_attempts) -> Outcome:
    driver.phase("train", newest_attempt(plan.run) + 1)
    return attempts(plan.run, plan.recipe, lambda sized: _attempt_input(plan, sized, profile_steps))


def _attempt_input(plan: _Plan, recipe: Recipe, profile_steps: int) -> AttemptInput:
    """What the workers of one attempt are sent. recipe: with that attempt's number of workers and micro-batch."""
    check_base(plan.run, recipe)  # it may have been replaced while the attempt before was running
    resolved = resolve(recipe, plan.model, None)
    wanted = recipe.cluster
    spare = sum(node.cpus for node in cluster_facts().nodes) - wanted.workers * wanted.cpus_per_worker
    return AttemptInput(
        recipe=recipe.model_dump(mode="json") | {"tune": None},
        run=plan.run,
        tokenizer=tokenizer_source(recipe),
        train_store=plan.prepared.train,
        eval_stores=plan.prepared.eval_stores,
        num_replicas=resolved.num_replicas,
        sync=resolved.sync,
        token_flops=resolved.token_flops,
        square_flops=resolved.square_flops,
        total_steps=plan.schedule.total_steps,
        steps_per_epoch=plan.schedule.steps_per_epoch,
        fingerprints=plan.fingerprints,
        stream_cpus=int(spare >= 1),
        memory_plan=plan.memory,
        profile_steps=profile_steps,
        train_columns=plan.columns.train,
        eval_columns=dict(plan.columns.evaluated),
    )
