"""The real lm-evaluation-harness on a tiny model and local task files: its numbers are those of its own run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exports import write_export

from raysft.errors import DataError, UserError
from raysft.evaluate import harness
from raysft.evaluate.harness import Asked, harness_version, load_tasks, run_tasks
from raysft.evaluate.ready import ready_export
from raysft.observe.benchmarks import harness_lines

lm_eval = pytest.importorskip("lm_eval")

TASKS = {
    "pick_word": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "likely_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` and `tasks`, whose data lies beside them."""
    at = tmp_path_factory.mktemp("harness")
    (at / "model").mkdir()
    write_export(at / "model")
    (at / "tasks").mkdir()
    rows = [
        {"question": f"{a} and {b}", "choices": [a, b, f"{b} {a}"], "answer": number % 3}
        for number, (a, b) in enumerate([("the", "river"), ("model", "a"), ("one", "two"), ("two", "the")] * 3)
    ]
    (at / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(at / "rows.jsonl")}}}
        whole = {"task": name, **data, "test_split": "test", **task, "metadata": {"version": 1.5}}
        (at / "tasks" / f"{name}.yaml").write_text(json.dumps(whole))
    return at


def test_its_numbers_are_those_of_its_own_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(tuple(TASKS), include=str(place / "tasks"), batch_size=4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)  # with it, the harness's own model waits for other processes
    model = ready_export(str(place / "model"), batch_size=4)
    found = run_tasks(model, load_tasks(asked), asked)
    manager = lm_eval.tasks.TaskManager(include_path=str(place / "tasks"), include_defaults=False)
    arguments = {"pretrained": str(place / "model"), "dtype": "float32"}
    how = {"task_manager": manager, "device": str(model.generator.model.device), "batch_size": 4}
    theirs = lm_eval.simple_evaluate(model="hf", model_args=arguments, tasks=list(TASKS), **how)
    assert {*found} == {*TASKS}
    for name, one in found.items():
        values = {key: metric["value"] for key, metric in one["metrics"].items()}
        assert values == pytest.approx({key: theirs["results"][name][key] for key in values}, abs=1e-12)
        parts = [s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in theirs["samples"][name]]
        assert one["hash"] == lm_eval.utils.hash_string("".join(parts))
        assert (one["samples"], one["version"], one["num_fewshot"]) == (12, 1.5, 0)
    assert 0 < found["pick_word"]["metrics"]["acc,none"]["value"] < 1
    assert found["likely_text"]["metrics"]["bits_per_byte,none"]["value"] > 0
    record = {"tasks": found, "harness": harness_version(), "name": "tiny"}
    first, _, last = harness_lines(record)
    assert first.startswith("harness      pick_word: acc 0.")
    assert first.endswith(" of 12, 0-shot")
    assert last == f"             lm-evaluation-harness {harness_version()}; tiny"


def test_an_unknown_task_has_near_names(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = lm_eval.tasks.TaskManager
    own = manager(include_path=str(place / "tasks"), include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **named: own)  # all of them take 20 s
    with pytest.raises(UserError, match="no task pick_words") as raised:
        load_tasks(Asked(("pick_words",), include=str(place / "tasks")))
    assert "pick_word" in str(raised.value)


def test_data_that_is_not_here_is_said_to_be(place: Path, tmp_path: Path) -> None:
    task = {"task": "far", "dataset_path": "somebody/far", "test_split": "test", **TASKS["pick_word"]}
    (tmp_path / "far.yaml").write_text(json.dumps(task))
    with pytest.raises(DataError, match="not here: far") as raised:
        load_tasks(Asked(("far",), include=str(tmp_path)))
    assert "HF_HOME" in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"doc_to_text": "{{ question |"},
        {"doc_to_text": "{{ nowhere.x.y }}"},
        {"output_type": "dance"},
        {"test_split": "nosuch"},
        {"surprise": 1},
    ],
)
def test_a_broken_task_file_is_told(place: Path, tmp_path: Path, change: dict[str, object]) -> None:
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(place / "rows.jsonl")}}}
    task = {"task": "broken", **data, "test_split": "test", **TASKS["pick_word"], **change}
    (tmp_path / "broken.yaml").write_text(json.dumps(task))
    asked = Asked(("broken",), include=str(tmp_path))
    with pytest.raises(UserError, match="a task cannot be used: broken") as raised:
        run_tasks(ready_export(str(place / "model"), batch_size=4), load_tasks(asked), asked)
    assert "correct the task file" in raised.value.fix


@pytest.mark.parametrize("task", TASKS)
def test_a_target_that_is_no_column_is_refused_by_name(place: Path, tmp_path: Path, task: str) -> None:
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(place / "rows.jsonl")}}}
    fields = {"task": "lost", **data, "test_split": "test", **TASKS[task], "doc_to_target": "anwser"}
    (tmp_path / "lost.yaml").write_text(json.dumps(fields))
    asked = Asked(("lost",), include=str(tmp_path))
    with pytest.raises(UserError, match="doc_to_target of the task lost names no column") as raised:
        run_tasks(ready_export(str(place / "model"), batch_size=4), load_tasks(asked), asked)
    assert raised.value.got == "anwser; there are question, choices, answer"
    assert "such as answer" in raised.value.expected


def test_one_answer_to_all_documents_is_a_choice(place: Path, tmp_path: Path) -> None:
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(place / "rows.jsonl")}}}
    choice = {"doc_to_choice": ["yes", "no"], "doc_to_target": "yes"}
    fields = {"task": "always", **data, "test_split": "test", **TASKS["pick_word"], **choice}
    (tmp_path / "always.yaml").write_text(json.dumps(fields))
    asked = Asked(("always",), include=str(tmp_path))
    found = run_tasks(ready_export(str(place / "model"), batch_size=4), load_tasks(asked), asked)
    assert found["always"]["samples"] == 12


def test_a_directory_of_tasks_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no task files to include"):
        load_tasks(Asked(("a",), include=str(tmp_path / "nothing")))


def test_without_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed"):
        harness_version()
