"""One attempt from its first step to its end: the loop with its hooks, records, commits, watchdog and notices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial

import torch

from raysft.engine.protocol import Engine
from raysft.objectives.reduce import Reduced
from raysft.recipe.evaluation_sets import best_by
from raysft.recipe.forgetting import guarded_losses
from raysft.recipe.resolve import Schedule
from raysft.train import hooks
from raysft.train.commits.lineage import Attempt
from raysft.train.commits.writer import Retention, Writer
from raysft.train.history import incidents
from raysft.train.history.records import Records, StartFacts, ledger_host
from raysft.train.history.skips import Skip, add_skip, read_skips
from raysft.train.history.spans import WorkerSpans
from raysft.train.loop import StepBatch, train
from raysft.train.prefetch import Prefetch
from raysft.train.probe import Probed
from raysft.train.state import Outcome, StepInfo, TrainState
from raysft.train.watch import watchdog
from raysft.train.watch.peak import peak_flops
from raysft.train.watch.profile import Profile
from raysft.train.watch.stop_requests import NoticeBoard
from raysft.train.watch.straggler import Slow, StragglerWatch
from raysft.train.watch.watchdog import Watchdog
from raysft.train.worker_input import WorkerContext

logger = logging.getLogger(__name__)

Measured = Mapping[int, Mapping[str, float]]
"""{step: {SET/MEASURE: value}}, filled as the attempt evaluates."""


@dataclass(frozen=True)
class Session:
    """What the loop works on, ready before its first step."""

    engine: Engine
    batches: Callable[[int], StepBatch]
    evaluate: Callable[[Callable[[], None]], dict[str, Reduced]]
    """The losses of held-out rows by set; given what is to be called at every batch. Empty: no such data."""
    state: TrainState
    probed: Probed


def run_session(
    context: WorkerContext, attempt: Attempt, session: Session, spans: WorkerSpans, reached: Callable[[int], None]
) -> Outcome:
    """Train to the end, or to where the attempt is asked to end. reached(step) is told of every step done."""
    job, group = context.job, context.group
    records = Records(job.run, attempt.number, group.rank)
    records.start(_start_facts(context, session))
    schedule = Schedule(job.total_steps, job.steps_per_epoch, context.recipe.optimizer)
    measured: dict[int, dict[str, float]] = {}
    with ExitStack() as stack:
        dog = stack.enter_context(closing(_watchdog(context, attempt)))
        writer = stack.enter_context(closing(_writer(context, attempt, dog.beat)))
        batches = stack.enter_context(closing(Prefetch(session.batches, job.total_steps)))
        board = stack.enter_context(closing(NoticeBoard(job.run))) if group.rank == 0 else None

        def save(state: TrainState) -> None:
            writer.save(session.engine, state, measured.get(state.step, {}), partial(_flush, records, spans))
            spans.until_now("checkpoint", state.step)
            dog.beat()

        def evaluate(step: int) -> None:
            if found := session.evaluate(dog.beat):
                measured[step] = _measures(found)
                records.evaluation(step, found)
                spans.until_now("evaluation", step)

        def follow(info: StepInfo) -> None:
            dog.beat()
            reached(info.state.step)
            spans.until_now("compute", info.state.step, info.data_wait_s, writer.held_s())
            records.step(info)

        wanted = _hooks(context, attempt, follow, evaluate)
        if job.pause_step is not None:
            wanted.append(hooks.pause_at(job.pause_step))
        if job.profile_steps and group.rank == 0:
            wanted.append(stack.enter_context(closing(Profile(job.run, attempt.number, job.profile_steps))))
        spans.until_now("start", session.state.step)
        if session.state.step == 0:
            evaluate(0)
        state = _with_untrained(context, session.state, measured)
        wanted += _rules(context, state, measured)
        outcome = train(
            session.engine,
            batches,
            wanted,
            state,
            total_steps=job.total_steps,
            learning_rate=schedule.learning_rate,
            save=save,
            notice=board.current if board else lambda: 0,
            left_out={skip.step for skip in read_skips(job.run)},
        )
        writer.finish()
        records.flush()
        spans.until_now("checkpoint", outcome.step)
    spans.end(outcome.status, outcome.reason)
    if outcome.status == "rollback" and group.rank == 0:
        add_skip(job.run, Skip(outcome.step - 1, outcome.reason))
    return outcome


def _flush(records: Records, spans: WorkerSpans) -> None:
    """What others may read from the next commit on. In the saving thread: an object store may take its time."""
    records.flush()
    spans.close()


def _hooks(
    context: WorkerContext, attempt: Attempt, follow: Callable[[StepInfo], None], evaluate: Callable[[int], None]
) -> list[hooks.Hook]:
    """In the order in which they are called."""
    recipe, total_steps = context.recipe, context.job.total_steps
    often = recipe.evaluate.every_steps or total_steps
    wanted: list[hooks.Hook] = [
        hooks.every(1, follow),
        hooks.every(often, lambda info: evaluate(info.state.step), and_at=total_steps),
        hooks.NonFiniteGuard(),
        hooks.checkpoint_every(recipe.checkpoint.every_steps),
        hooks.end_on_notice(recipe.checkpoint.every_steps),
    ]
    if recipe.train.spike_factor is not None:
        wanted.append(hooks.SpikeGuard(recipe.train.spike_factor))
    if context.group.rank == 0:
        wanted.append(StragglerWatch(partial(_tell_slow, context.job.run, attempt.number)))
    return wanted


def _with_untrained(context: WorkerContext, state: TrainState, measured: Measured) -> TrainState:
    """The state with the losses before training of guarded sets, where it is that of step 0."""
    before = measured.get(0, {}) if state.step == 0 else {}
    found = {name: before[name] for name in guarded_losses(context.recipe) if name in before}
    return replace(state, untrained=found) if found else state


def _rules(context: WorkerContext, state: TrainState, measured: Measured) -> list[hooks.Hook]:
    """What ends the run early by what is measured; after the hook that measures."""
    limit_nats = context.recipe.evaluate.stop_at_forgetting_nats
    if limit_nats is None:
        return []
    if not state.untrained and context.group.rank == 0:
        logger.warning("evaluate.stop_at_forgetting_nats does not hold: step 0 of this run did not measure it")
    return [hooks.finish_on_forgetting(limit_nats, state.untrained, measured)]


def _measures(found: Mapping[str, Reduced]) -> dict[str, float]:
    """{SET/MEASURE: value} of an evaluation."""
    return {
        f"{name}/{measure}": value
        for name, one in found.items()
        for measure, value in {**one.terms, **one.metrics, "loss": one.loss}.items()
    }


def _writer(context: WorkerContext, attempt: Attempt, beat: Callable[[], None]) -> Writer:
    keep = context.recipe.checkpoint
    retention = Retention(keep.keep_last, keep.keep_every_steps, best_by(context.recipe))
    facts = {"fingerprints": context.job.fingerprints}
    return Writer(context.job.run, attempt, context.group, retention=retention, facts=facts, beat=beat)


def _watchdog(context: WorkerContext, attempt: Attempt) -> Watchdog:
    leave = partial(watchdog.leave, context.job.run, attempt.number, context.group.rank, context.group.size)
    return Watchdog(context.recipe.cluster.hang_timeout_s, leave)


def _tell_slow(run: str, attempt: int, slow: Slow, step: int) -> None:
    """Name a rank and its node."""
    host = ledger_host(run, attempt, slow.rank)
    what = f"rank {slow.rank} on {host} is slow: {slow.own_s:.3f} s a step for data and forward passes"
    more = f"{slow.own_s / slow.others_s:.1f} times the median of the others ({slow.others_s:.3f} s)"
    logger.warning("%s, %s", what, more)
    facts = {"rank": slow.rank, "host": host, "own_s": slow.own_s, "others_s": slow.others_s}
    incidents.record(
        run, "straggler", f"{what}, {more}", attempt=attempt, step=step, detected_after_s=None, facts=facts
    )


def _start_facts(context: WorkerContext, session: Session) -> StartFacts:
    dtype = torch.bfloat16 if context.recipe.train.precision == "bf16" else torch.float32
    flops, basis = peak_flops(context.device, dtype)
    return StartFacts(
        step=session.state.step,
        micro_batch_rows=session.probed.micro_batch_rows,
        probe_s=session.probed.probe_s,
        peak_flops=context.group.sum(flops),
        peak_basis=basis,
        total_steps=context.job.total_steps,
    )
