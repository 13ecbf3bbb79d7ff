"""Runs read for a comparison: what is told of each, whatever state it is in, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from html_page import Page
from run_dirs import DATA, make_run, recipe_of

import raysft
from raysft.errors import UserError
from raysft.metrics.base import Answer
from raysft.run.classified import write_labels
from raysft.run.compare import compared_runs
from raysft.run.evaluations import write_answers, write_evaluation
from raysft.run.rundir import claim


def answered(storage_at: Path, name: str, seed: int, right: int) -> Path:
    """A finished run that gave so many right answers to 20 prompts."""
    run = make_run(storage_at, name, seed)
    prints = claim(str(run), recipe_of(storage_at, name, seed), DATA)
    answers = [Answer(f"q{i}", "yes" if i < right else "no", "yes") for i in range(20)]
    metrics = {"exact_match": {"value": right / 20, "count": 20, "low": 0.1, "high": 0.9}}
    write_answers(str(run), "after", {"dev": answers}, prints)
    write_evaluation(str(run), "after", {"dev": {"metrics": metrics, "num_prompts": 20}}, prints)
    return run


def test_changes_are_against_the_first_run_on_the_same_prompts(tmp_path: Path) -> None:
    one, other = answered(tmp_path, "one", 1, right=2), answered(tmp_path, "other", 2, right=18)
    found = raysft.compare([str(one), other], tmp_path / "page.html")
    assert list(found.changes) == ["dev/exact_match"]
    base, change = found.changes["dev/exact_match"]
    assert base is None
    assert change is not None
    assert (change.difference, change.count) == (pytest.approx(0.8), 20)
    assert change.p < 0.01
    assert found.fields["optimizer.learning_rate"] == ("1.1", "2.1")
    assert not {"name", "storage"} & found.fields.keys()
    for told in (str(found), Page(Path(str(found.page)).read_text()).text):
        for text in ("+80.0%", "p < 0.001", "90.0% (10.0% to 90.0%)", "optimizer.learning_rate", "finished"):
            assert text in told, text
    assert "What is held out may differ" in str(found), "the seeds differ"


def test_a_run_that_is_being_written_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    whole, torn = make_run(tmp_path, "whole", 1), make_run(tmp_path, "torn", 2)
    for name in ("result.json", "evaluation", "report.html"):
        path = torn / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    metrics = torn / "metrics" / "attempt-0002.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-40])
    first, second = compared_runs([str(whole), str(torn)])
    assert [run.status for run in (first, second)] == ["finished", "failed"]
    assert max(line["step"] for line in second.metrics) == 7, "the line that is not whole is not read"
    assert second.after == {}


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", 1)
    for named, message in (
        ([run], "two runs or more"),
        ([run, f"{run}/"], "two runs or more"),
        ([run, tmp_path / "no"], "is no run"),
        ([run, tmp_path], "is no run"),
    ):
        with pytest.raises(UserError, match=message):
            raysft.compare([str(one) for one in named])


def test_runs_of_one_name_are_told_apart_by_their_place(tmp_path: Path) -> None:
    runs = [str(make_run(tmp_path / place, "one", 1)) for place in ("a", "b")]
    assert [run.label for run in compared_runs(runs)] == runs


def test_classifiers_are_compared_text_by_text(tmp_path: Path) -> None:
    runs = []
    for name, seed, right in (("one", 1, 12), ("other", 2, 20)):
        run = make_run(tmp_path, name, seed)
        prints = claim(str(run), recipe_of(tmp_path, name, seed), DATA)
        told = {"labels": ["a", "b"], "texts": [f"t{i}" for i in range(20)], "known": [[i % 2] for i in range(20)]}
        told |= {"told": [[i % 2 if i < right else 1 - i % 2] for i in range(20)], "brier": [0.1] * 20}
        metrics = {
            "label_accuracy": {"value": right / 20, "count": 20},
            "macro_f1": {"value": right / 20, "count": 20},
        }
        write_labels(str(run), {"held_out": told}, prints)
        write_evaluation(str(run), "after", {"held_out": {"metrics": metrics, "num_prompts": 20}}, prints)
        runs.append(str(run))
    text = str(raysft.compare(runs))
    assert "+40.0%" in text
    assert "p = 0.008" in text, "8 texts that only the second has right: 2 / 2 ** 8"
    assert "McNemar" in text
