"""Ray Train's per-worker function: wire -> engine, feed, hooks -> loop. The only Ray in train/.

Set-up errors are agreed on by all ranks and returned as an Outcome. Errors in the loop are written down
and raised: Ray Train restarts the group, and the next attempt decides whether to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from raysft.data.balance import Sync
from raysft.data.feed import Feed, Share
from raysft.data.identity import stream_source
from raysft.data.rows import Rows, StepRows, StoredRows, row_order
from raysft.data.store import TokenStore
from raysft.data.stream import Cursor, StreamedRows
from raysft.data.stream_server import serve
from raysft.data.tokenizer import load_tokenizer
from raysft.engine.zero import ZeroEngine
from raysft.errors import DataError, ModelError
from raysft.model.load import load_model
from raysft.model.loss import check_isolation
from raysft.model.methods import apply_method
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.fingerprint import digest
from raysft.recipe.load import parse_recipe
from raysft.recipe.resolve import ResolvedRun, Schedule
from raysft.recipe.schema import Recipe
from raysft.train import failures, hooks
from raysft.train.checkpoint import Attempt, Checkpoint, Writer, begin_attempt, read_attempts
from raysft.train.group import Group, TorchGroup
from raysft.train.loop import train
from raysft.train.records import Records
from raysft.train.state import Outcome, StepInfo, TrainState

ISOLATION_TOLERANCE = 1e-4
"""Largest difference of fp32 log-probabilities between a packed and an unpacked segment."""


@dataclass(frozen=True)
class Wire:
    """What the driver sends to every worker; plain values only."""

    recipe: dict[str, Any]
    run: str
    tokenizer: str
    train_store: str | None
    """None: streamed."""
    eval_store: str | None
    num_replicas: int
    rows_per_micro_step: int
    micro_steps: int
    sync: Sync
    token_flops: float
    square_flops: float
    total_steps: int
    steps_per_epoch: int | None
    fingerprints: dict[str, str]
    first_attempt: int
    """Failures of attempts before this one belong to earlier commands and are no reason to give up."""
    stream_cpus: int
    """CPUs that a task of the stream reserves."""


@dataclass(frozen=True)
class _Place:
    """Where this process stands."""

    job: Wire
    recipe: Recipe
    group: Group
    device: torch.device


@dataclass(frozen=True)
class _Setup:
    """Everything the loop needs, built before its first step."""

    engine: ZeroEngine
    feed: Feed
    held_out: list[StepRows]
    state: TrainState


def train_worker(wire: dict[str, Any]) -> dict[str, Any]:
    """Train from the newest commit to the end. Returns an Outcome as JSON, the same on every rank."""
    job = Wire(**wire)
    recipe = parse_recipe(job.recipe)
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(recipe.cluster.cpus_per_worker)
    device = torch.device("cuda" if recipe.cluster.gpus_per_worker else "cpu")
    place = _Place(job, recipe, TorchGroup(device), device)
    ended = _hopeless(job)
    if place.group.from_rank_0(int(ended is not None)):  # rank 0 decides, and its return value is the run's
        return (ended or Outcome(status="failed", step=0, reason="rank 0 ended the run")).to_json()
    attempt, restored = begin_attempt(job.run, place.group)
    with _recording(place, attempt, lambda: restored.state.step if restored else 0):
        setup = _try_set_up(place, attempt, restored)
    outcome = setup if isinstance(setup, Outcome) else _run(place, attempt, setup)
    return outcome.to_json()


@contextmanager
def _recording(place: _Place, attempt: Attempt, step: Callable[[], int]) -> Iterator[None]:
    """Write down what is raised inside, with the step that was reached; Ray Train gets it as it is."""
    try:
        yield
    except Exception as error:  # process boundary
        rank = place.group.rank
        record = failures.describe_failure(error, attempt=attempt.number, rank=rank, step=step(), certain=False)
        failures.write_failure(place.job.run, record)
        raise


def _hopeless(job: Wire) -> Outcome | None:
    """Did this command's last attempt end in a way that would only repeat itself?"""
    attempts = read_attempts(job.run)
    if not attempts:
        return None
    own = [f for f in failures.read_failures(job.run) if f.attempt >= job.first_attempt]
    return failures.verdict(own, newest_attempt=attempts[-1].number)


def _try_set_up(place: _Place, attempt: Attempt, restored: Checkpoint | None) -> _Setup | Outcome:
    """Set up, or the Outcome that all ranks agree on when any of them cannot."""
    run, group, setup = place.job.run, place.group, None
    try:
        module = _build_module(place)
    except Exception as error:  # process boundary: becomes an Outcome on every rank
        step = restored.state.step if restored else 0
        record = failures.describe_failure(error, attempt=attempt.number, rank=group.rank, step=step, certain=True)
        failures.write_failure(run, record)
    else:
        setup = module
    if not group.all_true(setup is not None):
        records = [f for f in failures.read_failures(run) if f.attempt == attempt.number]
        return failures.as_outcome(records[0])
    assert setup is not None
    tensors = restored.tensors() if restored else None
    engine = ZeroEngine(setup, _resolved(place.job, place.recipe), place.device, tensors)
    state = restored.state if restored else TrainState()
    feed = _feed(place, _train_rows(place, attempt, state))
    return _Setup(engine=engine, feed=feed, held_out=_held_out(place), state=state)


def _build_module(place: _Place) -> ObjectiveModule:
    """The module to train, in fp32 on the device, its attention and head checked."""
    recipe = place.recipe
    section = recipe.model
    tokenizer = load_tokenizer(
        place.job.tokenizer, revision=section.revision, trust_remote_code=section.trust_remote_code
    )
    model = load_model(recipe, vocab_size=len(tokenizer))
    torch.nn.Module.to(model, place.device)
    difference = check_isolation(model, len(tokenizer), packing=recipe.data.packing)
    if not difference <= ISOLATION_TOLERANCE:
        raise ModelError(
            f"raysft does not compute what this model ({model.config.model_type}) computes by itself",
            got=f"log-probabilities that differ by {difference:.2g}, data.packing = {recipe.data.packing}",
            expected=f"at most {ISOLATION_TOLERANCE:g}: packed samples that do not see each other, the same head",
            fix="set data.packing: false, or another model.attention; if it stays, report the model type",
        )
    if recipe.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return ObjectiveModule(apply_method(model, recipe), make_objective(recipe))


def _feed(place: _Place, rows: Rows) -> Feed:
    job, recipe = place.job, place.recipe
    layout = _resolved(job, recipe).layout
    share = Share(
        replica=layout.coordinate(place.group.rank).replica,
        num_replicas=job.num_replicas,
        micro_batch_rows=recipe.train.micro_batch_rows,
        packing=recipe.data.packing,
        sync=job.sync,
        token_flops=job.token_flops,
        square_flops=job.square_flops,
    )
    return Feed(rows, make_objective(recipe).units, share)


def _train_rows(place: _Place, attempt: Attempt, state: TrainState) -> Rows:
    """The rows of every step: from the store, or from the stream where the checkpoint left it."""
    job, recipe = place.job, place.recipe
    order = row_order(recipe)
    if job.train_store is not None:
        return StoredRows(TokenStore.open(job.train_store), order)
    cursor = Cursor(**state.cursor)
    source = stream_source(recipe, cpus_per_task=job.stream_cpus)
    if source.fingerprint != job.fingerprints["data"]:
        raise DataError(
            "the streamed files have changed since the run began",
            got=f"data fingerprint {source.fingerprint[:16]}",
            expected=job.fingerprints["data"][:16],
            fix="put the files back as they were, or start a run of another name",
        )
    name = f"raysft-stream-{digest(job.run)}-{attempt.number}"
    return StreamedRows(serve(source, cursor, name), order, cursor)


def _held_out(place: _Place) -> list[StepRows]:
    """The rows of a held-out loss, in batches of a step's size."""
    if place.job.eval_store is None:
        return []
    store = TokenStore.open(place.job.eval_store)
    return StoredRows(store, row_order(place.recipe)).first(place.recipe.evaluate.max_rows)


def _run(place: _Place, attempt: Attempt, setup: _Setup) -> Outcome:
    """The loop with its hooks."""
    job, recipe, group = place.job, place.recipe, place.group
    reached = setup.state.step
    records = Records(job.run, attempt.number, group.rank)
    writer = Writer(
        job.run, attempt, group, keep_last=recipe.checkpoint.keep_last, facts={"fingerprints": job.fingerprints}
    )

    def save(state: TrainState) -> None:
        records.flush()
        writer.save(setup.engine.state, state)

    def held_out(step: int) -> None:
        if setup.held_out:
            records.evaluation(step, _held_out_loss(place, setup))

    def follow(info: StepInfo) -> None:
        nonlocal reached
        reached = info.state.step
        records.step(info)

    steps = Schedule(job.total_steps, job.steps_per_epoch, recipe.optimizer)
    wanted = [hooks.every(1, follow), hooks.NonFiniteGuard(), hooks.checkpoint_every(recipe.checkpoint.every_steps)]
    often = recipe.evaluate.every_steps or job.total_steps
    wanted.insert(1, hooks.every(often, lambda info: held_out(info.state.step), and_at=job.total_steps))
    with _recording(place, attempt, lambda: reached):
        if setup.state.step == 0:
            held_out(0)
        outcome = train(
            setup.engine,
            setup.feed.step,
            wanted,
            setup.state,
            total_steps=job.total_steps,
            learning_rate=steps.learning_rate,
            save=save,
        )
        records.flush()
    return outcome


def _held_out_loss(place: _Place, setup: _Setup) -> float:
    """Loss per unit over the first evaluate.max_rows held-out rows, over all ranks."""
    total, units = 0.0, 0.0
    for batch in map(setup.feed.batch, setup.held_out):
        total += sum(setup.engine.eval_step(batch.micro_batches).values())
        units += place.group.sum(sum(batch.units.values()))
    return total / units


def _resolved(job: Wire, recipe: Recipe) -> ResolvedRun:
    return ResolvedRun(
        recipe=recipe,
        num_workers=recipe.cluster.workers,
        num_replicas=job.num_replicas,
        rows_per_micro_step=job.rows_per_micro_step,
        micro_steps=job.micro_steps,
        sync=job.sync,
        token_flops=job.token_flops,
        square_flops=job.square_flops,
    )
