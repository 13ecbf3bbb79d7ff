"""Hooks: when they act, and what they decide."""

from __future__ import annotations

import pytest
from fakes import FakeEngine, recorder, step_info
from loops import run

from raysft.train.hooks import GO_ON, NonFiniteGuard, SpikeGuard, checkpoint_every, end_on_notice, every
from raysft.train.state import Decision, Outcome, StepInfo
from raysft.train.watch.stop_requests import Notice


@pytest.mark.parametrize(("every_steps", "expected"), [(3, [3, 6, 9, 10]), (5, [5, 10]), (99, [10])])
def test_checkpoints_come_when_due_and_once_at_the_end(every_steps: int, expected: list[int]) -> None:
    _, saved = run(FakeEngine(), [checkpoint_every(every_steps)])
    assert [state.step for state in saved] == expected


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


@pytest.mark.parametrize(
    ("notice", "ends_at"), [(Notice.STOP, 4), (Notice.PREEMPTED, 4), (Notice.RESIZE, 6), (Notice.NONE, 10)]
)
def test_asked_to_end_it_commits_and_ends(notice: Notice, ends_at: int) -> None:
    """Told in the fourth step; commits are due every third."""
    engine = FakeEngine()
    outcome, saved = run(
        engine,
        [checkpoint_every(3), end_on_notice(3)],
        notice=lambda: notice if len(engine.calls) >= 3 else Notice.NONE,
    )
    assert outcome.step == saved[-1].step == len(engine.calls) == ends_at
    assert outcome.status == ("finished" if notice is Notice.NONE else "interrupted")
    assert len(saved) == len({state.step for state in saved}), "each step is committed once"


def test_asked_to_end_in_the_last_step_it_is_finished() -> None:
    outcome, saved = run(FakeEngine(), [end_on_notice(3)], notice=lambda: Notice.STOP, start=9)
    assert (outcome.status, [state.step for state in saved]) == ("finished", [10])


def test_a_spike_rolls_back_and_commits_nothing_of_it() -> None:
    guard = SpikeGuard(3.0)
    losses = [1.0, 1.2, 0.9, 1.1, 1.0, 0.8, 1.0, 2.9, 1.0, 3.1]
    decisions = [guard(step_info(step, loss=loss))[0] for step, loss in enumerate(losses, 1)]
    assert decisions == [Decision.CONTINUE] * 9 + [Decision.ROLLBACK]
    early = SpikeGuard(3.0)
    assert all(early(step_info(step, loss=100.0**step))[0] is Decision.CONTINUE for step in range(8)), (
        "too few to judge"
    )
    skipping = SpikeGuard(3.0)
    for step in range(20):
        assert skipping(step_info(step, loss=float("nan"), skipped=True)) == GO_ON

    def spike_at_7(info: StepInfo) -> tuple[Decision, str]:
        return (Decision.ROLLBACK, "high") if info.state.step == 7 else GO_ON

    outcome, saved = run(FakeEngine(), [spike_at_7, checkpoint_every(7)])
    assert outcome == Outcome(status="rollback", step=7, reason="high")
    assert saved == []
