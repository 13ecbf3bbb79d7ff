"""The loop and its hooks with an engine that only pretends."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from fakes import FakeEngine, recorder
from loops import run

from raysft.train.hooks import Hook, NonFiniteGuard, checkpoint_every, every
from raysft.train.state import Decision, Outcome, StepInfo, TrainState


def test_every_step_is_taken_once_with_its_rate_and_the_end_is_saved() -> None:
    engine = FakeEngine()
    outcome, saved = run(engine, [])
    assert engine.calls == [(step, pytest.approx(0.1 * (step + 1))) for step in range(10)]
    assert outcome == Outcome(status="finished", step=10)
    assert saved == [TrainState(step=10, skipped_steps=0, tokens=100, target_tokens=40.0)]


def test_a_resumed_run_takes_only_what_is_left() -> None:
    engine = FakeEngine()
    outcome, saved = run(engine, [], start=7)
    assert [step for step, _ in engine.calls] == [7, 8, 9]
    assert outcome.step == 10
    assert [state.step for state in saved] == [10]


@pytest.mark.parametrize("start", [10, 12])
def test_a_finished_run_does_nothing(start: int) -> None:
    engine = FakeEngine()
    outcome, saved = run(engine, [checkpoint_every(1)], start=start)
    assert (outcome.status, engine.calls, saved) == ("finished", [], [])


def test_hooks_see_each_step_after_it_was_taken() -> None:
    seen: list[StepInfo] = []
    run(FakeEngine(skips=frozenset({4})), [every(1, recorder(seen))])
    assert [i.state.step for i in seen] == list(range(1, 11))
    assert [i.loss for i in seen] == [pytest.approx(1 / n) for n in range(1, 11)]
    assert [i.sample_ids for i in seen][:2] == [(0, 1), (2, 3)]
    assert [i.state.step for i in seen if i.skipped] == [5]
    assert [i.state.skipped_steps for i in seen] == [0] * 4 + [1] * 6
    assert seen[-1].state.tokens == 100
    assert all(i.step_s >= i.data_wait_s >= 0 for i in seen)


def test_all_hooks_run_in_their_order_even_when_one_wants_to_stop() -> None:
    order: list[str] = []

    def named(name: str, decision: Decision) -> Hook:
        def hook(info: StepInfo) -> tuple[Decision, str]:
            order.append(name)
            return decision, name

        return hook

    hooks = [named("a", Decision.CHECKPOINT), named("b", Decision.STOP), named("c", Decision.CONTINUE)]
    outcome, saved = run(FakeEngine(), hooks)
    assert order == ["a", "b", "c"]
    assert outcome == Outcome(status="stopped", step=1, reason="b")
    assert saved == []  # what stops a run is no state to keep


def test_the_strongest_decision_wins_in_any_order() -> None:
    for decisions in itertools.permutations(Decision):
        hooks: list[Hook] = [lambda info, d=d: (d, d.name) for d in decisions]  # type: ignore[misc]
        outcome, _ = run(FakeEngine(), hooks)
        assert (outcome.status, outcome.reason) == ("stopped", "STOP")


def test_gradients_that_are_not_finite_once_leave_no_trace_but_a_mark() -> None:
    class Flipped(FakeEngine):
        def train_step(self, *args: Any, **named: Any) -> Any:
            done = super().train_step(*args, **named)
            is_first = [step for step, _ in self.calls].count(4) == 1
            return replace(done, skipped=True) if is_first and named["step"] == 4 else done

    seen: list[StepInfo] = []
    engine = Flipped()
    outcome, saved = run(engine, [every(1, recorder(seen)), NonFiniteGuard(limit=1)])
    assert [step for step, _ in engine.calls] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]
    assert [i.state.step for i in seen if i.replayed] == [5]
    assert not any(i.skipped for i in seen)
    assert outcome.status == "finished"
    assert saved == run(FakeEngine(), [])[1], "the same state as without"


def test_an_exception_in_the_engine_is_not_swallowed() -> None:
    class Broken(FakeEngine):
        def train_step(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def, override]
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        run(Broken(), [])


@pytest.mark.parametrize("left_out", [{0}, {4, 5}, {9}])
def test_steps_left_out_are_counted_and_keep_their_rate(left_out: set[int]) -> None:
    engine = FakeEngine()
    outcome, saved = run(engine, [], left_out=left_out)
    assert engine.calls == [(step, pytest.approx(0.1 * (step + 1))) for step in range(10) if step not in left_out]
    assert outcome == Outcome(status="finished", step=10)
    assert (saved[-1].step, saved[-1].skipped_steps) == (10, len(left_out))
    assert saved[-1].tokens == 10 * (10 - len(left_out))
