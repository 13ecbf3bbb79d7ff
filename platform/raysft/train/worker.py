"""Ray Train's per-worker function: input -> engine, feed, hooks -> loop. The only Ray in train/.

Set-up errors are agreed on by all ranks and returned as an Outcome. Errors in the loop are written down
and raised: Ray Train restarts the group, and the next attempt decides whether to go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import torch
from transformers.utils import logging as transformers_logging

from raysft.data.feed.collate import Feed, MicroBatch, Share, largest_micro_batch
from raysft.data.feed.rows import Rows, StoredRows, row_order
from raysft.data.feed.stream import Cursor, StreamedRows
from raysft.data.feed.stream_server import serve_stream
from raysft.data.feed.stream_source import stream_source
from raysft.data.store.parts import TokenStore
from raysft.engine.choose import make_engine
from raysft.engine.protocol import Engine
from raysft.engine.slices import Saved
from raysft.errors import DataError, ModelError
from raysft.model.export import export_parts
from raysft.objectives.base import NLL
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.objectives.reduce import FirstRows, Reduced, added, reduced
from raysft.recipe.evaluation_sets import evaluation_sets, tells_likelihood
from raysft.recipe.fingerprint import digest
from raysft.recipe.load import parse_recipe
from raysft.recipe.measures import HELD_OUT
from raysft.recipe.objective_traits import data_columns
from raysft.recipe.resolve import ResolvedRun, with_micro_batch_rows
from raysft.recipe.traits import virtual_tokens
from raysft.train.assembly import build_module
from raysft.train.commits.checkpoint import begin_attempt
from raysft.train.commits.layout import Checkpoint
from raysft.train.commits.lineage import Attempt
from raysft.train.engine_check import check_engine
from raysft.train.group import TorchGroup
from raysft.train.history import failures
from raysft.train.history.spans import WorkerSpans
from raysft.train.near_cpus import stay_near
from raysft.train.probe import Closable, Largest, Probed, fit
from raysft.train.same_bits import fix_order
from raysft.train.session import Session, run_session
from raysft.train.state import Outcome, TrainState
from raysft.train.watch import watchdog
from raysft.train.watch.watchdog import Watchdog, Watched
from raysft.train.worker_input import AttemptInput, WorkerContext

FIRST_ROWS = 4
"""Held-out rows that an exported model is checked by: few, for a large one may lie on a disk while it is asked."""


@dataclass(frozen=True)
class Parts:
    """What a worker trains with. One with a process of its own makes all of it (ALONE, below)."""

    module: Callable[[WorkerContext], ObjectiveModule]
    """In fp32, attention and head checked."""
    engine: Callable[[ObjectiveModule, ResolvedRun, torch.device, Saved | None], Closable]
    """From the state at a commit, where there is one."""


def train_worker(fields: dict[str, Any], parts: Parts | None = None) -> dict[str, Any]:
    """Train from the newest commit to the end. Returns an Outcome as JSON, the same on every rank."""
    job = AttemptInput(**fields)
    recipe = parse_recipe(job.recipe)
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(recipe.cluster.cpus_per_worker)
    fix_order(recipe.train.deterministic)
    device = torch.device("cuda" if recipe.cluster.gpus_per_worker else "cpu")
    if recipe.cluster.bind_cpus:
        stay_near(device, recipe.cluster.cpus_per_worker)
    context = WorkerContext(job, recipe, TorchGroup(device), device)
    with closing(_setup_watchdog(context, 0)):  # the attempt has no number yet
        attempt, restored = begin_attempt(job.run, context.group)
    with closing(WorkerSpans(job.run, attempt.number, is_writer=context.group.rank == 0)) as spans:
        began_at = restored.state.step if restored else 0
        with _recording(context, attempt, lambda: began_at), closing(_setup_watchdog(context, attempt.number)):
            session = _try_set_up(context, attempt, restored, parts or ALONE)
        if isinstance(session, Outcome):
            return session.to_json()
        steps = [session.state.step]
        with _recording(context, attempt, lambda: steps[-1]):
            return run_session(context, attempt, session, spans, steps.append).to_json()


def _setup_watchdog(context: WorkerContext, attempt: int) -> Watchdog:
    """A watchdog for what comes before the first step: storage, the network or a library may never answer."""
    leave = partial(watchdog.leave, context.job.run, attempt, context.group.rank, context.group.size)
    return Watchdog(context.recipe.cluster.setup_timeout_s, leave)


@contextmanager
def _recording(context: WorkerContext, attempt: Attempt, step: Callable[[], int]) -> Iterator[None]:
    """Write down what is raised inside, with the step that was reached; Ray Train gets it as it is."""
    try:
        yield
    except Exception as error:  # process boundary
        rank = context.group.rank
        record = failures.describe_failure(
            error, attempt=attempt.number, rank=rank, step=step(), certain=False, node=_node()
        )
        failures.write_failure(context.job.run, record)
        raise


def _node() -> str:
    """The node that this process runs on, as Ray knows it."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _try_set_up(
    context: WorkerContext, attempt: Attempt, restored: Checkpoint | None, parts: Parts
) -> Session | Outcome:
    """Set up, or the Outcome that all ranks agree on when any of them cannot."""
    run, group = context.job.run, context.group
    state = restored.state if restored else TrainState()

    def write_down(error: Exception) -> None:
        at = {"attempt": attempt.number, "rank": group.rank, "step": state.step}
        failures.write_failure(run, failures.describe_failure(error, **at, certain=True, node=_node()))

    modules = []
    try:
        modules.append(parts.module(context))
    except Exception as error:  # process boundary: becomes an Outcome on every rank
        write_down(error)
    if group.all_true(bool(modules)):
        vocab_size = modules[0].vocab_size
        try:
            with _state_at(restored) as saved:
                engine, probed = _probed_engine(context, modules, saved, parts)
            check_engine(engine, context.recipe, vocab_size)
        except ModelError as error:  # on every rank
            write_down(error)
        else:
            feed = _feed(context, _train_rows(context, attempt, state), probed.micro_batch_rows)
            evaluate = partial(_evaluate, context, engine, feed)
            return Session(engine, feed.step, evaluate, state, probed)
    group.barrier()
    records = [f for f in failures.read_failures(run) if f.attempt == attempt.number]
    return failures.as_outcome(records[0])


@contextmanager
def _state_at(restored: Checkpoint | None) -> Iterator[Saved | None]:
    """The state to go on from, for as long as it is needed."""
    if restored is None:
        yield None
        return
    with closing(restored.saved()) as saved:
        yield saved
    restored.kept.clear()


def _probed_engine(
    context: WorkerContext, modules: list[ObjectiveModule], restored: Saved | None, parts: Parts
) -> tuple[Closable, Probed]:
    """The engine, and how it ran the largest rows. modules: the first to build it from. ModelError: on all ranks."""
    recipe, run = context.recipe, context.resolved

    segments = _most_segments(context)

    def largest(rows: int) -> list[MicroBatch]:  # the second pass meets the first's gradients; a stage holds several
        passes = min(with_micro_batch_rows(run, rows).micro_steps, max(2, recipe.parallel.pipeline))
        return [largest_micro_batch(rows, recipe.data.max_tokens, data_columns(recipe), segments)] * passes

    wanted = Largest(
        micro_batches=largest,
        rows=recipe.train.micro_batch_rows,
        terms=tuple(term.name for term in make_objective(recipe).terms),
        may_halve=recipe.parallel.auto_micro_batch,
        plan=context.job.memory_plan,
    )

    def build(rows: int) -> Closable:
        module = modules.pop() if modules else parts.module(context)
        return parts.engine(module, with_micro_batch_rows(run, rows), context.device, restored)

    return fit(build, wanted, context.group, context.device)


def _most_segments(context: WorkerContext) -> int:
    """Segments of the rows that are probed: one, unless virtual tokens make each of them longer than its text."""
    job, recipe = context.job, context.recipe
    if not virtual_tokens(recipe) or job.train_store is None or not recipe.data.packing:
        return 1
    return max(1, TokenStore.open(job.train_store).most_segments())


ALONE = Parts(build_module, make_engine)


def _feed(context: WorkerContext, rows: Rows, micro_batch_rows: int) -> Feed:
    job, recipe = context.job, context.recipe
    layout = context.resolved.layout
    share = Share(
        replica=layout.coordinate(context.group.rank).replica,
        num_replicas=job.num_replicas,
        micro_batch_rows=micro_batch_rows,
        packing=recipe.data.packing,
        sync=job.sync,
        token_flops=job.token_flops,
        square_flops=job.square_flops,
    )
    return Feed(rows, make_objective(recipe).units, share, data_columns(recipe))


def _train_rows(context: WorkerContext, attempt: Attempt, state: TrainState) -> Rows:
    """The rows of every step: from the store, or from the stream where the checkpoint left it."""
    job, recipe = context.job, context.recipe
    order = row_order(recipe)
    if job.train_store is not None:
        return StoredRows(TokenStore.open(job.train_store, job.train_columns), order)
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
    return StreamedRows(serve_stream(source, cursor, name), order, cursor)


def _evaluate(context: WorkerContext, engine: Engine, feed: Feed, beat: Callable[[], None]) -> dict[str, Reduced]:
    """{set: the loss of its first rows, by steps, and what is counted of them all}, over all ranks. beat: called at
    each batch."""
    job, recipe, found = context.job, context.recipe, {}
    objective = make_objective(recipe)
    for name, plan in evaluation_sets(recipe).items():
        if "loss" not in plan.metrics or name not in job.eval_stores:
            continue
        store = TokenStore.open(job.eval_stores[name], job.eval_columns.get(name))
        sums, batches = [], list[MicroBatch]()
        for batch in map(feed.batch, StoredRows(store, row_order(recipe)).first(plan.max_rows)):
            sums.append(engine.eval_step(batch.micro_batches, batch.units))
            batches += batch.micro_batches if objective.whole_step else ()
            beat()
        found[name] = reduced(sums, objective.terms)
        if objective.counted is not None:
            whole = engine.eval_step(Watched(batches, beat), batch.units) if batches else added(sums, objective.terms)
            found[name].metrics.update(objective.counted.tell(whole.counts))
        if name == HELD_OUT and tells_likelihood(recipe) and "merged" in export_parts(recipe):
            found[name] = replace(found[name], first=_first_rows(context, engine, feed, store))
    return found


def _first_rows(context: WorkerContext, engine: Engine, feed: Feed, store: TokenStore) -> FirstRows:
    """By which an exported model is checked (run/export_check.py): the likelihood of a few rows. Collective."""
    rows = StoredRows(store, row_order(context.recipe)).first(FIRST_ROWS)[0]
    batch, terms = feed.batch(rows), make_objective(context.recipe).terms
    found = reduced([engine.eval_step(batch.micro_batches, batch.units)], terms)
    return FirstRows(len(rows.tokens), {**found.metrics, **found.terms}.get(NLL, math.nan))
