"""One attempt from its first step to its end, with an engine that only pretends: what it measures and leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBatch, FakeEngine, FakeGroup
from workers import make_context

from raysft.objectives.reduce import Reduced
from raysft.train.commits.checkpoint import begin_attempt
from raysft.train.commits.layout import read_commits
from raysft.train.history.incidents import read_incidents
from raysft.train.history.records import read_metrics
from raysft.train.history.skips import read_skips
from raysft.train.history.spans import WorkerSpans, read_spans
from raysft.train.probe import Probed
from raysft.train.session import Session, _tell_slow, run_session
from raysft.train.state import Outcome, TrainState
from raysft.train.watch.straggler import Slow
from raysft.train.worker_input import WorkerContext

STEPS = 6


class Losses(FakeEngine):
    """Loss 1 / step, but for what `spikes` names."""

    spikes: dict[int, float] = {}  # noqa: RUF012

    def train_step(self, micro_batches: Any, units: Any, *, step: int, learning_rate: float, aside: Any = ()) -> Any:
        done = super().train_step(micro_batches, units, step=step, learning_rate=learning_rate, aside=aside)
        if step not in self.spikes:
            return done
        return replace(done, found=replace(done.found, loss=self.spikes[step]))


@pytest.fixture
def attempt(tmp_path: Path) -> Callable[..., tuple[Outcome, FakeEngine]]:
    """Runs one attempt of the run in tmp_path from where the last one was."""

    def run(*, engine: FakeEngine | None = None, measure: Any = None, **job: Any) -> Any:
        sections = {
            **{"checkpoint": {"every_steps": 2, "keep_last": 9}, "evaluate": {"every_steps": 3}},
            **job.pop("sections", {}),
        }
        context: WorkerContext = make_context(
            str(tmp_path),
            FakeGroup(),
            sections=sections | {"data": {"eval": "e.jsonl"}},
            **{"total_steps": STEPS, **job},
        )
        begun, restored = begin_attempt(str(tmp_path), context.group)
        state = restored.state if restored else TrainState()
        used = engine or FakeEngine()

        def evaluate(beat: Callable[[], None]) -> dict[str, Reduced]:
            beat()
            if measure:
                return measure(beat, state.step + len(used.calls))
            return {"held_out": Reduced(0.25, {"nll": 0.25}, {}, {"nll": 4.0}, 4.0)}

        session = Session(used, lambda step: FakeBatch(), evaluate, state, Probed(1, 0.5))
        reached: list[int] = []
        spans = WorkerSpans(str(tmp_path), begun.number, is_writer=True)
        outcome = run_session(context, begun, session, spans, reached.append)
        spans.close()
        assert reached == sorted(reached)
        return outcome, used

    return run


def steps_of(run: Path, kind: str) -> list[int]:
    return [line["step"] for line in read_metrics(str(run)) if line["kind"] == kind]


def test_a_whole_run_is_measured_committed_and_accounted_for(attempt: Any, tmp_path: Path) -> None:
    outcome, engine = attempt()
    assert (outcome.status, outcome.step) == ("finished", STEPS)
    assert [step for step, _ in engine.calls] == list(range(STEPS))
    assert steps_of(tmp_path, "step") == list(range(1, STEPS + 1))
    assert steps_of(tmp_path, "eval") == [0, 3, 6], "before, every third, at the end"
    assert sorted(commit.step for commit in read_commits(str(tmp_path))) == [2, 4, 6]
    _, (written,) = read_spans(str(tmp_path))
    kinds = [span.kind for span in written.spans]
    assert kinds[:2] == ["start", "evaluation"]
    assert kinds.count("compute") == STEPS
    assert written.status == "finished"


def test_an_attempt_that_pauses_goes_on_in_the_next_with_the_same_schedule(attempt: Any, tmp_path: Path) -> None:
    first, before = attempt(pause_step=3)
    assert (first.status, first.step) == ("interrupted", 3)
    second, after = attempt()
    assert second.status == "finished"
    rates = [rate for _, rate in [*before.calls, *after.calls]]
    assert [step for step, _ in [*before.calls, *after.calls]] == list(range(STEPS))
    assert rates == sorted(rates, reverse=True), "one cosine over the whole run"
    assert steps_of(tmp_path, "eval") == [0, 3, 6], "what was measured is not measured again"


def test_a_spike_leaves_its_step_out_of_the_next_attempt(attempt: Any, tmp_path: Path) -> None:
    spiky = Losses()
    spiky.spikes = {9: 1e6}
    how = {"sections": {"train": {"rows_per_step": 2, "spike_factor": 2.0}}, "total_steps": 12}
    outcome, _ = attempt(engine=spiky, **how)
    assert (outcome.status, outcome.step) == ("rollback", 10)
    assert [skip.step for skip in read_skips(str(tmp_path))] == [9]
    again, engine = attempt(**how)
    assert again.status == "finished"
    assert [step for step, _ in engine.calls] == [8, 10, 11], "from the commit at 8, without the step at 9"


def test_a_slow_rank_is_an_incident_with_its_numbers(tmp_path: Path) -> None:
    _tell_slow(str(tmp_path), 1, Slow(3, 0.9, 0.3), 40)
    (incident,) = read_incidents(str(tmp_path))
    assert (incident.kind, incident.attempt, incident.step) == ("straggler", 1, 40)
    assert "rank 3" in incident.what
    assert "3.0 times the median" in incident.what


GUARDED = {
    "evaluate": {
        "every_steps": 2,
        "stop_at_forgetting_nats": 0.5,
        "sets": {"general": {"data": "g.jsonl", "guard": True}, "other": {"data": "o.jsonl"}},
    }
}


def forgetting(general: dict[int, float]) -> tuple[Any, list[int]]:
    """evaluate() of a run that has just done so many steps as its engine was called, and when it was."""
    at: list[int] = []

    def evaluate(beat: Callable[[], None], done: int) -> dict[str, Reduced]:
        at.append(done)
        losses = {"general": general[done], "other": 9.0 * (done > 0), "held_out": 0.1}
        return {name: Reduced(loss + 7, {"nll": loss}, {}, {"nll": 4.0}, 4.0) for name, loss in losses.items()}

    return evaluate, at


@pytest.mark.parametrize("pauses", [(), (1,), (2,), (3,), (4,), (1, 2, 3, 4)])
def test_a_run_ends_where_a_guarded_set_is_forgotten(attempt: Any, tmp_path: Path, pauses: tuple[int, ...]) -> None:
    """With step 4, however often it was interrupted; `other` is guarded by nobody."""
    evaluate, _ = forgetting({0: 1.0, 2: 1.5, 4: 1.5625, 6: 1.0})
    for step in pauses:
        outcome, _ = attempt(pause_step=step, sections=GUARDED, measure=evaluate)
        assert outcome.step == step
    for _ in range(2):  # and stays ended, where the driver was killed before it knew
        outcome, _ = attempt(sections=GUARDED, measure=evaluate)
        assert (outcome.status, outcome.step) == ("finished", 4)
        assert outcome.reason == (
            "general/nll rose by 0.5625 nats, from 1.0000 to 1.5625: more than evaluate.stop_at_forgetting_nats 0.5"
        )
    newest = max(read_commits(str(tmp_path)), key=lambda commit: (commit.attempt, commit.step))
    assert newest.step == 4
    assert steps_of(tmp_path, "eval") == [0, 2, 4]


@pytest.mark.parametrize("after", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_has_forgotten(attempt: Any, after: float) -> None:
    outcome, _ = attempt(sections=GUARDED, measure=forgetting({0: 1.0, 2: after})[0])
    assert (outcome.status, outcome.step) == ("finished", 2)


def test_what_is_forgotten_at_the_end_ends_nothing_early(attempt: Any) -> None:
    outcome, _ = attempt(sections=GUARDED, measure=forgetting({0: 1.0, 2: 1.0, 4: 1.0, 6: 9.0})[0])
    assert (outcome.status, outcome.step, outcome.reason) == ("finished", STEPS, "")
