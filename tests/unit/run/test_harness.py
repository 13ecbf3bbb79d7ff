"""Where results of the harness are kept; the harness itself is played."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raysft import storage
from raysft.evaluate.harness import Asked
from raysft.run import harness
from raysft.run.kept_benchmarks import kept_lines, place, read_harness

METRICS = {"acc,none": {"value": 0.25, "stderr": 0.125}}


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """harness() on a model of this identity, of a run or of none."""

    def run(*tasks: str, identity: str = "a", is_run: bool = True, version: str = "0.4.13", **more: Any) -> list[str]:
        task = {"metrics": METRICS, "samples": 12, "version": 1, "num_fewshot": 0, "hash": "h"}
        monkeypatch.setattr(harness, "harness_version", lambda: version)
        monkeypatch.setattr(harness, "load_tasks", lambda asked: {})
        monkeypatch.setattr(harness, "run_tasks", lambda model, loaded, asked: dict.fromkeys(asked.tasks, task))
        monkeypatch.setattr(
            harness, "open_model", lambda at, batch_size: SimpleNamespace(identity=identity, name="m")
        )
        monkeypatch.setattr(harness, "run_of", lambda at: (str(tmp_path), "a recipe" if is_run else None))
        return harness.harness(str(tmp_path), Asked(tasks), **more)

    return run


def test_tasks_of_one_model_are_kept_together(measure: Any, tmp_path: Path) -> None:
    told = measure("one")
    assert told[0] == "harness      one: acc 0.2500 ± 0.1250 of 12, 0-shot"
    measure("two")
    assert kept_lines(str(tmp_path))[:2] == [
        "harness      one: acc 0.2500 ± 0.1250 of 12, 0-shot",
        "harness      two: acc 0.2500 ± 0.1250 of 12, 0-shot",
    ]
    for changed in ({"identity": "b"}, {"version": "0.5"}):
        measure("three", **changed)
        record = read_harness(str(tmp_path))
        assert record is not None
        assert [*record["tasks"]] == ["three"]


def test_a_model_of_no_run(measure: Any, tmp_path: Path) -> None:
    told = measure("one", is_run=False)
    assert told[-1].strip() == "kept nowhere: the model is of no run; --out FILE keeps it"
    out = tmp_path / "found.json"
    told = measure("one", is_run=False, out=str(out))
    assert told[-1] == f"results      {out}"
    assert storage.read_json(str(out))["tasks"]["one"]["metrics"] == METRICS
    assert kept_lines(str(tmp_path)) == []


@pytest.mark.parametrize("task", [7, {"metrics": {}}, {"metrics": {"acc": 1}}, {"metrics": {"acc": {"value": "x"}}}])
def test_what_is_no_result_is_passed_over(measure: Any, tmp_path: Path, task: Any) -> None:
    measure("one")
    record = storage.read_json(place(str(tmp_path)))
    whole = record["tasks"]["one"]
    record["tasks"]["two"] = {**whole, **task} if isinstance(task, dict) and task["metrics"] else task
    storage.write_json(place(str(tmp_path)), {name: record[name] for name in ("harness", "model", "name", "tasks")})
    assert kept_lines(str(tmp_path)) == []
