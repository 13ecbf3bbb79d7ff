"""What trackers are told of a run's lines; that none of them ends, delays or outlives it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import make_recipe, step_info

from raysft.errors import InterruptedRunError, RecipeError
from raysft.objectives.reduce import Reduced
from raysft.observe.trackers import TRACKERS
from raysft.observe.trackers.base import Place, Point
from raysft.run import tracking as module
from raysft.run.tracking import check_trackers, tracking, values_of
from raysft.train.history.records import Records, StartFacts, attempt_metrics


class Heard:
    """A tracker that remembers, and fails or hangs when it is told to."""

    def __init__(self, place: Place) -> None:
        self.place, self.points, self.calls = place, list[Point](), list[object]()
        self.fails, self.hangs = False, threading.Event()
        self.hangs.set()

    def log(self, points: Sequence[Point]) -> None:
        self.hangs.wait(30)
        if self.fails:
            raise RuntimeError("no room on s3://key:secret@bucket")
        self.points += points

    def rewind(self, step: int) -> None:
        self.calls.append(step)

    def close(self, status: str) -> None:
        self.calls.append(status)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[str, Heard]:
    made: dict[str, Heard] = {}

    def opening(name: str) -> Any:
        return lambda place: made.setdefault(name, Heard(place))

    for name in TRACKERS:
        monkeypatch.setitem(TRACKERS, name, opening(name))
    return made


def lines_of(run: Path) -> list[dict[str, Any]]:
    records = Records(str(run), 1, 0)
    records.start(StartFacts(0, 2, 0.5, 1e9, "guessed"))
    for step in (1, 2):
        records.step(step_info(step, loss=2.0 / step, terms={"nll": 2.0 / step}, metrics={"margin": 0.5}))
    found = Reduced(1.5, {"nll": 1.5}, {"margin": 0.25}, {"nll": 9.0}, 9.0)
    records.evaluation(2, {"held_out": found, "other": found})
    records.flush()
    return list(attempt_metrics(str(run), 1))


def recipe_in(storage: Path, *trackers: str) -> Any:
    return make_recipe(storage=str(storage), train={"trackers": trackers, "precision": "fp32"})


def test_what_is_recorded_is_told_in_its_order(tmp_path: Path, heard: dict[str, Heard]) -> None:
    lines = lines_of(tmp_path / "run")
    recipe = recipe_in(tmp_path, "tensorboard", "mlflow")
    with tracking(str(tmp_path / "run"), recipe, {"mathematics": "m"}) as tracked:
        for line in lines:
            tracked(line)
        tracked({"kind": "start", "step": 1})
        tracked(lines[2])
        tracked.evaluated(None, {"held_out": {"metrics": {"exact_match": {"value": 0.5}}}}, 9)
    for one in heard.values():
        assert [point.step for point in one.points] == [1, 2, 2, 2, 9]
        assert one.calls == [1, "finished"]
        step, _, evaluation, _, after = (point.values for point in one.points)
        assert (step["loss"], step["terms/nll"], step["metrics/margin"], step["learning_rate"]) == (
            2.0,
            2.0,
            0.5,
            0.1,
        )
        assert evaluation["held_out/loss"] == evaluation["other/loss"] == 1.5
        assert evaluation["other/margin"] == 0.25
        assert after == {"after/held_out/exact_match": 0.5}
        assert one.place.fields["model.source"] == "random"
    first, second = heard.values()
    assert first.place == second.place
    assert values_of(lines[1]) == step


@pytest.mark.parametrize(
    ("error", "status"), [(InterruptedRunError("asked to"), "stopped"), (ValueError(), "failed")]
)
def test_the_end_of_a_run_is_told(error: Exception, status: str, tmp_path: Path, heard: dict[str, Heard]) -> None:
    with pytest.raises(type(error)), tracking(str(tmp_path), recipe_in(tmp_path, "mlflow"), {}):
        raise error
    assert heard["mlflow"].calls == [status]


def test_one_that_fails_is_left_out_and_the_others_go_on(
    tmp_path: Path, heard: dict[str, Heard], caplog: pytest.LogCaptureFixture
) -> None:
    lines = lines_of(tmp_path / "run")
    with tracking(str(tmp_path / "run"), recipe_in(tmp_path, "tensorboard", "mlflow"), {}) as tracked:
        until = time.monotonic() + 10
        while len(heard) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        heard["tensorboard"].fails = True
        for line in lines:
            tracked(line)
    assert heard["tensorboard"].calls == []
    assert len(heard["mlflow"].points) == 3
    assert "tensorboard is left out from here on: RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_one_that_cannot_be_opened_leaves_nothing_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(TRACKERS, "mlflow", lambda place: 1 / 0)
    with tracking(str(tmp_path), recipe_in(tmp_path, "mlflow"), {}) as tracked:
        tracked({"kind": "start", "step": 0})
    assert "mlflow is left out" in caplog.text


def test_one_that_hangs_is_not_waited_for(
    tmp_path: Path, heard: dict[str, Heard], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.2)
    lines, began = lines_of(tmp_path / "run"), time.monotonic()
    with tracking(str(tmp_path / "run"), recipe_in(tmp_path, "wandb"), {}) as tracked:
        while "wandb" not in heard:
            time.sleep(0.01)
        heard["wandb"].hangs.clear()
        tracked(lines[1])
    assert time.monotonic() - began < 10
    assert "have not taken everything" in caplog.text
    heard["wandb"].hangs.set()


def test_without_trackers_there_is_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with tracking(str(tmp_path), make_recipe(), {}) as tracked:
        tracked({"kind": "step"})
        assert threading.active_count() == before


def test_what_cannot_be_opened_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "wandb" else object())
    check_trackers(recipe_in(tmp_path, "tensorboard", "mlflow"))
    with pytest.raises(RecipeError, match="wandb needs a package"):
        check_trackers(recipe_in(tmp_path, "wandb"))
    elsewhere = make_recipe(storage="s3://bucket/x", train={"trackers": ("mlflow",)})
    with pytest.raises(RecipeError, match=r"MLFLOW_TRACKING_URI|into a directory"):
        check_trackers(elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    check_trackers(elsewhere)
