"""The loop and its hooks with an engine that only pretends."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from fakes import FakeBatch, FakeEngine, recorder, step_info
from raysft.train.hooks import GO_ON, Hook, NonFiniteGuard, checkpoint_every, every
from raysft.train.loop import train
from raysft.train.state import Decision, Outcome, StepInfo, TrainState


def run(
    engine: FakeEngine, hooks: Sequence[Hook], *, start: int = 0, total: int = 10
) -> tuple[Outcome, list[TrainState]]:
    saved: list[TrainState] = []
    outcome = train(
        engine,
        lambda step: FakeBatch(),
        hooks,
        TrainState(step=start),
        total_steps=total,
        learning_rate=lambda step: 0.1 * (step + 1),
        save=saved.append,
    )
    return outcome, saved


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


@pytest.mark.parametrize(("every_steps", "expected"), [(3, [3, 6, 9, 10]), (5, [5, 10]), (99, [10])])
def test_checkpoints_come_when_due_and_once_at_the_end(every_steps: int, expected: list[int]) -> None:
    _, saved = run(FakeEngine(), [checkpoint_every(every_steps)])
    assert [state.step for state in saved] == expected


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


def test_every_acts_on_multiples_only() -> None:
    seen: list[StepInfo] = []
    hook = every(4, recorder(seen))
    assert [hook(step_info(step)) for step in range(1, 10)] == [GO_ON] * 9
    assert [i.state.step for i in seen] == [4, 8]


def test_single_skips_are_tolerated_and_a_series_stops_the_run() -> None:
    assert run(FakeEngine(skips=frozenset({1, 2, 4, 5, 7})), [NonFiniteGuard(limit=3)])[0].status == "finished"
    outcome, _ = run(FakeEngine(skips=frozenset({1, 4, 5, 6})), [NonFiniteGuard(limit=3)])
    assert (outcome.status, outcome.step) == ("stopped", 7)
    assert "not finite in 3 steps" in outcome.reason


def test_an_exception_in_the_engine_is_not_swallowed() -> None:
    class Broken(FakeEngine):
        def train_step(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def, override]
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        run(Broken(), [])
