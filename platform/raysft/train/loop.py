"""THE loop. Owns time: which step, when to checkpoint, when to end. Names no Ray, no DeepSpeed, no tracker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import Protocol

from raysft.engine.protocol import Engine
from raysft.objectives.batch import HostBatch
from raysft.train.aside import Aside, heard
from raysft.train.hooks import Hook
from raysft.train.state import Decision, Outcome, StepInfo, TrainState


class StepBatch(Protocol):
    """This rank's share of a global step (data/feed/collate.py makes it)."""

    @property
    def micro_batches(self) -> Sequence[HostBatch]: ...
    @property
    def units(self) -> Mapping[str, float]: ...
    @property
    def cursor(self) -> Mapping[str, int]: ...
    @property
    def flops(self) -> float: ...


def train(
    engine: Engine,
    batches: Callable[[int], StepBatch],
    hooks: Sequence[Hook],
    state: TrainState,
    *,
    total_steps: int,
    learning_rate: Callable[[int], float],
    save: Callable[[TrainState], None],
    notice: Callable[[], int] = lambda: 0,
    left_out: Set[int] = frozenset(),
) -> Outcome:
    """Run steps state.step .. total_steps - 1. Hooks are called in their order, the same on every rank.

    save(state) commits a checkpoint, when a hook asks and after the last step. notice(): what this rank was told from
    outside. left_out: 0-based steps whose data is passed over. A step whose gradients are not finite is done once
    more; if they are not then either, it is skipped. A state that has ended takes no step."""
    while state.step < total_steps and not state.ended:
        started = time.perf_counter()
        batch = batches(state.step)
        fetched = time.perf_counter()
        if state.step in left_out:
            state = _pass_over(state, batch)
            if state.step == total_steps:
                save(state)
            continue
        rate = learning_rate(state.step)
        take = partial(
            engine.train_step,
            batch.micro_batches,
            batch.units,
            step=state.step,
            learning_rate=rate,
            aside=Aside(fetched - started, notice()).numbers(),
        )
        result = take()
        if replayed := result.skipped:  # no weight has changed: what a passing fault did does not come again
            result = take()
        state = replace(
            state,
            step=state.step + 1,
            skipped_steps=state.skipped_steps + result.skipped,
            tokens=state.tokens + result.tokens,
            target_tokens=state.target_tokens + result.found.target_tokens,
            cursor=batch.cursor,
        )
        told = heard(result.asides, result.costs)
        info = StepInfo(
            state=state,
            loss=result.loss,
            terms=result.found.terms,
            metrics=result.found.metrics,
            grad_norm=result.grad_norm,
            skipped=result.skipped,
            replayed=replayed,
            learning_rate=rate,
            step_s=time.perf_counter() - started,
            data_wait_s=told.data_wait_s,
            forward_backward_s=told.forward_backward_s,
            peak_bytes=result.costs.peak_bytes,
            reserved_bytes=result.costs.reserved_bytes,
            device_bytes=result.costs.device_bytes,
            flops=batch.flops,
            tokens=result.tokens,
            target_tokens=result.found.target_tokens,
            sample_ids=result.sample_ids,
            notice=told.notice,
            rank_s=told.rank_s,
            orthogonalised=result.orthogonalised,
        )
        decision, reason = _strongest([hook(info) for hook in hooks])
        if decision in _UNCOMMITTED:
            return Outcome(status=_UNCOMMITTED[decision], step=state.step, reason=reason)
        if decision is Decision.FINISH and state.step < total_steps:
            state = replace(state, ended=reason)
        if decision is not Decision.CONTINUE or state.step == total_steps:
            save(state)
        if decision is Decision.INTERRUPT and state.step < total_steps:
            return Outcome(status="interrupted", step=state.step, reason=reason)
    return Outcome(status="finished", step=state.step, reason=state.ended)


_UNCOMMITTED = {Decision.STOP: "stopped", Decision.ROLLBACK: "rollback"}
"""{decision that leaves the step without a commit: how the attempt has ended}."""


def _pass_over(state: TrainState, batch: StepBatch) -> TrainState:
    return replace(state, step=state.step + 1, skipped_steps=state.skipped_steps + 1, cursor=batch.cursor)


def _strongest(wishes: Sequence[tuple[Decision, str]]) -> tuple[Decision, str]:
    return max(wishes, key=lambda wish: wish[0].value, default=(Decision.CONTINUE, ""))
