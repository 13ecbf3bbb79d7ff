"""What each tracker has written, read by its own library. Those that are not installed are skipped."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from raysft.observe.trackers import PACKAGES, TRACKERS
from raysft.observe.trackers.base import Place, Point
from raysft.recipe.sections.train import TrainSection


def place_in(folder: Path, identity: str = "abc") -> Place:
    run = folder / "runs" / "one"
    run.mkdir(parents=True, exist_ok=True)
    fields = {"model.source": "random", "data.train": ["a.jsonl"], "long": "x" * 9000}
    return Place("one", identity, str(run), str(folder), fields)


def points(first: int, last: int, loss: float = 2.0) -> list[Point]:
    return [
        Point(step, 1e9 + step, {"loss": loss / step, "terms/nll": loss / step}) for step in range(first, last + 1)
    ]


def opened(name: str, place: Place) -> Any:
    pytest.importorskip(PACKAGES[name])
    return TRACKERS[name](place)


def test_every_tracker_of_a_recipe_is_here() -> None:
    (names,) = TrainSection.model_fields["trackers"].annotation.__args__[:1]  # type: ignore[union-attr]
    assert set(TRACKERS) == set(PACKAGES) == set(names.__args__)


def test_tensorboard_shows_a_run_that_went_on_once(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    place = place_in(tmp_path)
    tracker = opened("tensorboard", place)
    tracker.log([*points(1, 6), Point(6, 1e9, {"held_out/loss": math.nan})])
    tracker.rewind(4)
    tracker.log(points(5, 8, loss=3.0))
    tracker.close("finished")
    found = reader.EventAccumulator(os.path.join(place.directory, "tensorboard")).Reload()
    shown = [(one.step, one.value) for one in found.Scalars("loss")]
    assert [step for step, _ in shown] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert shown[3][1] == pytest.approx(0.5)
    assert shown[4][1] == pytest.approx(0.6), "what was superseded is gone"
    assert "terms/nll" in found.Tags()["scalars"]


@pytest.mark.full  # 10 s: its tables
def test_mlflow_goes_on_in_the_same_run_and_tells_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = opened("mlflow", place_in(tmp_path))
    tracker.log([*points(1, 1500), Point(3, 1e9, {"held_out/loss": 1.5})])
    tracker.close("stopped")
    again = opened("mlflow", place_in(tmp_path))
    again.rewind(1500)
    again.log(points(1501, 1502))
    again.close("finished")
    opened("mlflow", place_in(tmp_path, "another")).close("failed")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("raysft").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
    (run,) = [run for run in runs if run.data.tags["raysft.run"] == "abc"]
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(one.step for one in history) == list(range(1, 1503))
    assert run.data.metrics["held_out/loss"] == 1.5
    assert run.data.params["model.source"] == "random"


def test_wandb_writes_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    place = place_in(tmp_path)
    tracker = opened("wandb", place)
    tracker.log(points(1, 6))
    tracker.rewind(4)
    tracker.log(points(5, 8))
    tracker.close("finished")
    (file,) = Path(place.directory).glob("wandb/offline-run-*/run-*.wandb")
    data = file.read_bytes()
    for said in (b"terms/nll", b"raysft", b"model.source"):
        assert said in data
