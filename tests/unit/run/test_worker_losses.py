"""Held-out losses out of what the workers left: of the first step, of the last commit, over attempts; or none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBatch, FakeEngine, FakeGroup, make_recipe
from workers import make_context

from raysft import sealed, storage
from raysft.data.prepare.prepared import Prepared, Store
from raysft.evaluate.heldout import Targets
from raysft.objectives.reduce import Reduced
from raysft.run import before_after, evaluations
from raysft.run.evaluations import Evaluated, read_evaluation
from raysft.run.worker_losses import losses_after, losses_before
from raysft.train.commits.checkpoint import begin_attempt
from raysft.train.commits.layout import commit_directory, read_commits
from raysft.train.history.paths import RunPaths
from raysft.train.history.spans import WorkerSpans
from raysft.train.probe import Probed
from raysft.train.session import Session, run_session
from raysft.train.state import TrainState

STEPS = 4
SETS = {"data": {"eval": "e.jsonl"}, "evaluate": {"sets": {"dev": {"data": "d.jsonl"}}}}
RECIPE = make_recipe(**SETS)
TARGETS = {"held_out": Targets(7, 4.0), "dev": Targets(5, 4.0)}
PRINTS = {"mathematics": "m"}


def attempt(run: Path, worth: Callable[[int], float], *, is_metric: bool = False, **job: Any) -> None:
    """From the last commit on. worth: the nll of the held-out rows at each step; that of `dev` is 1 more.

    is_metric: as under dft, whose loss is another term.
    """
    sections = {"checkpoint": {"every_steps": 2}, **SETS}
    context = make_context(str(run), FakeGroup(), sections=sections, **{"total_steps": STEPS, **job})
    begun, restored = begin_attempt(str(run), context.group)
    engine = FakeEngine()
    state = restored.state if restored else TrainState()

    def evaluate(beat: Callable[[], None]) -> dict[str, Reduced]:
        nll = worth(state.step + len(engine.calls))
        found = {"held_out": nll, "dev": nll + 1}
        if is_metric:
            return {n: Reduced(9.0, {"dft": 9.0}, {"nll": value}, {"dft": 4.0}, 4.0) for n, value in found.items()}
        return {
            name: Reduced(9.0 + value, {"nll": value, "kl": 9.0}, {}, {"nll": 4.0, "kl": 4.0}, 4.0)
            for name, value in found.items()
        }

    spans = WorkerSpans(str(run), begun.number, is_writer=True)
    session = Session(engine, lambda step: FakeBatch(), evaluate, state, Probed(1, 0.5))
    run_session(context, begun, session, spans, lambda step: None)
    spans.close()


def told(record: dict[str, Any] | None) -> dict[str, Any]:
    assert record is not None
    assert all((one["num_prompts"], one["samples"], one["of_pairs"]) == (0, [], False) for one in record.values())
    return {name: {m: (e["value"], e["count"]) for m, e in one["metrics"].items()} for name, one in record.items()}


def of(nll: float) -> dict[str, Any]:
    found = {"held_out": (nll, 7), "dev": (nll + 1, 5)}
    return {name: {"loss": (v, n), "perplexity": (math.exp(v), n)} for name, (v, n) in found.items()}


def test_the_first_step_and_the_last_commit_tell_over_all_attempts(tmp_path: Path) -> None:
    run = str(tmp_path)
    attempt(tmp_path, lambda step: 3.0 - step / 8, pause_step=3)
    assert told(losses_before(run, RECIPE, TARGETS)) == of(3.0), "the term, not the loss that the guard is part of"
    assert losses_after(run, RECIPE, TARGETS) is None, "it has not come so far"
    attempt(tmp_path, lambda step: 2.0 - step / 8)
    assert told(losses_before(run, RECIPE, TARGETS)) == of(3.0), "not measured again"
    assert told(losses_after(run, RECIPE, TARGETS)) == of(1.5)
    for wanted in ({**TARGETS, "more": Targets(3, 4.0)}, {**TARGETS, "dev": Targets(9, 6.0)}):  # asked for later
        assert losses_before(run, RECIPE, wanted) is None
        assert losses_after(run, RECIPE, wanted) is None


def test_a_likelihood_that_is_a_metric_is_told_as_well(tmp_path: Path) -> None:
    attempt(tmp_path, lambda step: 3.0 - step / 8, is_metric=True)
    assert told(losses_before(str(tmp_path), RECIPE, TARGETS)) == of(3.0)
    assert told(losses_after(str(tmp_path), RECIPE, TARGETS)) == of(2.5)


@pytest.mark.parametrize("worth", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_nothing(tmp_path: Path, worth: float) -> None:
    attempt(tmp_path, lambda step: worth)
    assert losses_before(str(tmp_path), RECIPE, TARGETS) is None
    assert losses_after(str(tmp_path), RECIPE, TARGETS) is None


def test_what_was_lost_is_nothing(tmp_path: Path) -> None:
    run = str(tmp_path)
    attempt(tmp_path, lambda step: 2.0)
    newest = max(read_commits(run), key=lambda commit: commit.step)
    place = storage.join(commit_directory(run, newest), "commit.json")
    record = storage.read_json(place)
    storage.write_json(place, {**record, "facts": {}})
    assert losses_after(run, RECIPE, TARGETS) is None, "it does not have its checksum"
    other = {**record["facts"], "measured": {**record["facts"]["measured"], "dev/nll": 2.5}}
    content = {name: value for name, value in record.items() if name != "sha256"}
    storage.write_json(place, sealed.sealed({**content, "facts": other}))
    assert losses_after(run, RECIPE, TARGETS) is None, "of other weights"
    storage.write_json(place, record)
    assert losses_after(run, RECIPE, TARGETS) is not None
    storage.remove_tree(RunPaths(run).room("metrics"))
    assert losses_before(run, RECIPE, TARGETS) is losses_after(run, RECIPE, TARGETS) is None


def around(
    run: Path, patch: pytest.MonkeyPatch, recipe: Any, train: Callable[[], None] = lambda: None
) -> tuple[tuple[Any, Any], list[str]]:
    """before_and_after() of a run, and what happened in which order."""
    happened = []

    def by_tasks(recipe: Any, function: Any, stores: Any, *more: str) -> dict[str, Any]:
        happened.append(function.__name__)
        return {name: {"metrics": {"loss": {"value": 0.5}}, "num_prompts": 0, "samples": []} for name in stores}

    def training() -> None:
        happened.append("train")
        train()

    patch.setattr(evaluations, "evaluate_by_tasks", by_tasks)
    patch.setattr(before_after, "targets_of", lambda recipe, stores: {name: TARGETS[name] for name in stores})
    stores = {"dev": Store("d", {})} if recipe.evaluate.sets else {}
    prepared = Prepared(None, "e", {}, {}, stores)
    of_run = Evaluated(str(run), recipe, prepared, PRINTS)
    return before_after.before_and_after(of_run, training, lambda name: None), happened


def test_no_task_holds_a_model_that_its_workers_have_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before, after), happened = around(
        tmp_path, monkeypatch, RECIPE, lambda: attempt(tmp_path, lambda step: 3.0 - step / 4)
    )
    assert happened == ["train"]
    assert (told(before), told(after)) == (of(3.0), of(2.0))
    assert read_evaluation(str(tmp_path), "before", PRINTS) == before
    again, happened = around(tmp_path, monkeypatch, RECIPE)
    assert happened == ["train"]
    assert again == (before, after), "kept"


def test_what_the_workers_did_not_leave_a_task_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, happened = around(tmp_path, monkeypatch, RECIPE)
    assert happened == ["train", "evaluate_initial", "evaluate_trained"]
    assert sealed.read(str(tmp_path / "evaluation" / "after.json"), {})


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate": {"generate_prompts": 4}},
        {"objective": {"kind": "dpo"}},
        {"method": {"kind": "prompt", "virtual_tokens": 4}},
    ],
    ids=["answers", "pairs", "virtual tokens"],
)
def test_what_workers_cannot_measure_a_task_does_around_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    recipe = make_recipe(data={"eval": "e.jsonl"}, **changes)
    _, happened = around(tmp_path, monkeypatch, recipe)
    assert happened == ["evaluate_initial", "train", "evaluate_trained"]
