"""One recipe, one run: prepare -> train -> evaluate -> export -> report. Every step is found done or done now.

The driver decides and reports; it holds no tensor. Running the same recipe again resumes where it ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from raysft import errors, storage
from raysft.data.inspect import certificate
from raysft.data.prepare import Prepared, prepare, train_fingerprint
from raysft.data.tokenizer import load_tokenizer, tokenizer_source
from raysft.lease import lease
from raysft.model.facts import check_vocabulary, check_weights, read_facts
from raysft.orchestrate import summary, tasks
from raysft.orchestrate.cluster import cluster, run_task, worker_environment
from raysft.orchestrate.plan import choose_layout
from raysft.orchestrate.progress import PrepareProgress, TrainingProgress
from raysft.orchestrate.rundir import (
    check_data,
    check_recipe,
    claim,
    has_same_data_fields,
    read_result,
    run_location,
    write_result,
)
from raysft.recipe.facts import ClusterFacts, DataFacts
from raysft.recipe.load import with_absolute_paths
from raysft.recipe.resolve import ResolvedRun, Schedule, resolve, schedule
from raysft.recipe.schema import Recipe
from raysft.train.checkpoint import read_attempts
from raysft.train.job import Wire
from raysft.train.worker import train_worker

logger = logging.getLogger(__name__)

COLLECTIVE_TIMEOUT_S = 1800


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run: str
    """Its directory."""
    steps: int
    before: dict[str, Any] | None
    """Evaluation of the untrained model; None without held-out data."""
    after: dict[str, Any] | None
    exports: tuple[str, ...]
    report: str
    profiles: tuple[str, ...] = ()
    """Traces that --profile left."""
    was_finished: bool = False
    """It had finished before this command; nothing was changed."""


@dataclass(frozen=True)
class _Plan:
    """A run, ready to train."""

    recipe: Recipe
    """With absolute paths."""
    run: str
    resolved: ResolvedRun
    schedule: Schedule
    prepared: Prepared
    fingerprints: dict[str, str]
    stream_cpus: int
    """CPUs that a task of the stream reserves: 0 where training takes all there are."""
    memory: str
    """The planner's breakdown."""


def run_training(recipe: Recipe, *, profile_steps: int = 0) -> RunResult:
    """Bring the run that a recipe names to its end. Raises RaysftError.

    profile_steps: steps of rank 0 that a torch profiler traces into the run's `profile` directory.
    """
    run = run_location(recipe)
    check_recipe(run, recipe)
    finished = read_result(run)
    if finished is not None:
        if not has_same_data_fields(run, recipe):
            check_data(run, recipe, train_fingerprint(with_absolute_paths(recipe)))
        return replace(_result(run, finished), was_finished=True)
    _check_before_ray(recipe)
    storage.check_writable(run)
    driver = storage.join(run, "driver")
    with lease(driver, waiting=partial(_refuse_second, run)), cluster() as nodes:
        plan = _plan(recipe, run, nodes)
        before = _evaluate_once(plan, "before", tasks.evaluate_initial)
        _train(plan, profile_steps)
        after = _evaluate_once(plan, "after", tasks.evaluate_trained, run)
        card = summary.card_facts(plan.run, plan.prepared, plan.fingerprints, before, after)
        fields = plan.recipe.model_dump(mode="json")
        exports = run_task(plan.recipe.cluster, tasks.export, fields, run, asdict(card))
    report = summary.write_report(
        run, recipe, [*plan.resolved.describe(), *plan.schedule.describe()], plan.prepared, plan.fingerprints
    )
    for leftover in ("ray", "driver"):
        storage.remove_tree(storage.join(run, leftover))
    result = {"steps": plan.schedule.total_steps, "before": before, "after": after, "exports": exports}
    write_result(run, {**result, "report": report, "finished_at": datetime.now(UTC).isoformat(timespec="seconds")})
    return _result(run, {**result, "report": report})


def _refuse_second(run: str, holder: str) -> None:
    raise errors.ConflictError(
        f"another command drives the run {run}",
        got=f"{holder}, which is alive",
        expected="one driver for each run",
        fix="wait for it, or end it (the next command goes on from the last checkpoint), or choose another name",
    )


def _check_before_ray(recipe: Recipe) -> None:
    """What can be refused within seconds, and before the run's name is taken. Raises UserError."""
    model, facts = recipe.model, read_facts(recipe)
    resolve(recipe, facts, None)
    check_weights(recipe)
    tokenizer = load_tokenizer(
        tokenizer_source(recipe), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    check_vocabulary(recipe, facts, len(tokenizer))


def _result(run: str, record: dict[str, Any]) -> RunResult:
    return RunResult(
        run=run,
        steps=record["steps"],
        before=record["before"],
        after=record["after"],
        exports=tuple(record["exports"]),
        report=record["report"],
        profiles=tuple(
            storage.join(run, "profile", name) for name in storage.list_names(storage.join(run, "profile"))
        ),
    )


def _plan(recipe: Recipe, run: str, nodes: ClusterFacts) -> _Plan:
    """Everything that is known before the first worker starts, said aloud."""
    choice = choose_layout(with_absolute_paths(recipe), nodes)
    absolute = choice.recipe
    resolved = resolve(absolute, read_facts(absolute), nodes)
    for line in [*resolved.describe(), *choice.lines]:
        logger.info(line)
    started = time.monotonic()
    with PrepareProgress() as progress:
        prepared = prepare(absolute, progress=progress)
    logger.info("data         %s (%.1f s)", prepared.train or "streamed", time.monotonic() - started)
    for line in certificate(prepared.train_manifest):
        logger.info("             %s", line)
    counts = prepared.train_manifest["counts"]
    sizes = DataFacts(counts.get("rows"))
    steps = schedule(resolved, sizes)
    for line in steps.describe():
        logger.info(line)
    fingerprints = claim(run, recipe, prepared.train_manifest["fingerprint"])
    spare = sum(node.cpus for node in nodes.nodes) - recipe.cluster.workers * recipe.cluster.cpus_per_worker
    return _Plan(absolute, run, resolved, steps, prepared, fingerprints, int(spare >= 1), choice.memory)


def _evaluate_once(
    plan: _Plan, when: str, function: Callable[..., dict[str, Any]], *more: str
) -> dict[str, Any] | None:
    """An evaluation on the cluster, kept in the run; None without held-out data."""
    if plan.prepared.eval is None:
        return None
    location = storage.join(plan.run, "evaluation", f"{when}.json")
    if not storage.exists(location):
        logger.info("evaluating %s training", when)
        fields = plan.recipe.model_dump(mode="json")
        storage.write_json(location, run_task(plan.recipe.cluster, function, fields, plan.prepared.eval, *more))
    evaluation: dict[str, Any] = storage.read_json(location)
    logger.info("%-12s %s", when, summary.evaluation_line(evaluation))
    return evaluation


def _train(plan: _Plan, profile_steps: int) -> None:
    """Ray Train from the newest commit to the last step. Raises what the workers returned as their outcome."""
    recipe, wanted = plan.recipe, plan.recipe.cluster
    first_attempt = max((attempt.number for attempt in read_attempts(plan.run)), default=0) + 1
    wire = Wire(
        recipe=recipe.model_dump(mode="json"),
        run=plan.run,
        tokenizer=tokenizer_source(recipe),
        train_store=plan.prepared.train,
        eval_store=plan.prepared.eval,
        num_replicas=plan.resolved.num_replicas,
        sync=plan.resolved.sync,
        token_flops=plan.resolved.token_flops,
        square_flops=plan.resolved.square_flops,
        total_steps=plan.schedule.total_steps,
        steps_per_epoch=plan.schedule.steps_per_epoch,
        fingerprints=plan.fingerprints,
        first_attempt=first_attempt,
        stream_cpus=plan.stream_cpus,
        memory_plan=plan.memory,
        profile_steps=profile_steps,
    )
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=asdict(wire),
        torch_config=TorchConfig(
            backend="nccl" if wanted.gpus_per_worker else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S
        ),
        scaling_config=ScalingConfig(
            num_workers=wanted.workers,
            use_gpu=wanted.gpus_per_worker > 0,
            resources_per_worker={"CPU": wanted.cpus_per_worker}
            | ({"GPU": wanted.gpus_per_worker} if wanted.gpus_per_worker else {}),
        ),
        run_config=RunConfig(
            name=f"fit-{first_attempt:04d}",
            storage_path=storage.join(plan.run, "ray"),
            failure_config=FailureConfig(max_failures=wanted.max_failures),
            worker_runtime_env={"env_vars": worker_environment(wanted)},
        ),
    )
    with TrainingProgress(plan.run, plan.schedule.total_steps):
        try:
            result: Any = trainer.fit()  # annotated by Ray as its v1 Result, which has no return_value
        except TrainingFailedError as error:
            raise _gave_up(plan, error) from error
    outcome = result.return_value
    if outcome is None or outcome["status"] != "finished":
        raise _as_error(plan.run, outcome)


def _gave_up(plan: _Plan, error: TrainingFailedError) -> errors.TrainingError:
    attempts = len(read_attempts(plan.run))
    return errors.TrainingError(
        "training was given up: its workers failed too often",
        got=f"{attempts} attempts in all; the last: {' '.join(str(error).split())[-400:]}",
        expected=f"at most cluster.max_failures = {plan.recipe.cluster.max_failures} failures",
        fix="mend the cause, then run the same command: it goes on from the last checkpoint",
    )


def _as_error(run: str, outcome: dict[str, Any] | None) -> errors.RaysftError:
    """The error that a worker's outcome stands for."""
    if outcome is None or outcome["error"] is None:
        reason = outcome["reason"] if outcome else "no outcome"
        step = outcome["step"] if outcome else 0
        return errors.TrainingError(
            f"training stopped after step {step}: {reason}",
            got=f"see {storage.join(run, 'metrics')}",
            fix="lower optimizer.learning_rate or look at the data of the last steps; run again to resume",
        )
    error = dict(outcome["error"])
    kinds = {kind.__name__: kind for kind in _all_kinds(errors.RaysftError)}
    kind = kinds.get(error.pop("kind"), errors.TrainingError)
    return kind(error["what"], got=error["got"], expected=error["expected"], fix=error["fix"])


def _all_kinds(kind: type[errors.RaysftError]) -> list[type[errors.RaysftError]]:
    return [kind, *(sub for child in kind.__subclasses__() for sub in _all_kinds(child))]
