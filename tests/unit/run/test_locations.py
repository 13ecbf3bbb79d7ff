"""Paths are compared by where they lead, from wherever and whenever they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_dirs import DATA

from raysft.errors import ConflictError
from raysft.recipe.load import parse_recipe
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.schema import Recipe
from raysft.run import locations
from raysft.run.rundir import claim


def test_paths_are_compared_by_where_they_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "base").mkdir(parents=True)
    (project / "link").symlink_to("base")
    monkeypatch.chdir(project)
    content = {"name": "r", "model": {"source": "./base"}, "data": {"train": "x"}}
    first = parse_recipe(content)
    run = str(project / "storage" / "runs" / "r")
    claim(run, first, DATA)
    for source in ("./base", "base/", str(project / "base"), "link", "../project/base"):
        claim(run, parse_recipe({**content, "model": {"source": source}}), DATA)
    monkeypatch.chdir(tmp_path)
    elsewhere = {**content, "storage": str(project / "storage"), "model": {"source": "project/base"}}
    claim(run, with_absolute_paths(parse_recipe(elsewhere)), DATA)
    (project / "other").mkdir()
    with pytest.raises(ConflictError, match=r"model.source"):
        claim(run, parse_recipe({**elsewhere, "model": {"source": str(project / "other")}}), DATA)


def test_a_project_may_move(tmp_path: Path) -> None:
    def recipe(root: Path) -> Recipe:
        fields = {"name": "r", "storage": str(root / "storage"), "data": {"train": "x"}}
        return parse_recipe({**fields, "model": {"source": str(root / "base")}})

    old, new = tmp_path / "old", tmp_path / "new"
    (old / "base").mkdir(parents=True)
    claim(str(old / "storage" / "runs" / "r"), recipe(old), DATA)
    old.rename(new)
    claim(str(new / "storage" / "runs" / "r"), recipe(new), DATA)
    with pytest.raises(ConflictError, match=r"model.source"):
        claim(str(new / "storage" / "runs" / "r"), recipe(tmp_path / "third"), DATA)


@pytest.mark.parametrize(
    ("name", "before", "after", "is_same"),
    [
        ("data.train", ["train.jsonl"], ["{here}/train.jsonl"], True),
        ("data.train", ["train.jsonl"], ["{here}/other.jsonl"], False),
        ("data.train", ["a", "b"], ["{here}/a"], False),
        ("data.train", [{"path": ["a"], "weight": 1.0}], [{"path": ["{here}/a"], "weight": 1.0}], True),
        ("data.train", [{"path": ["a"], "weight": 1.0}], [{"path": ["{here}/a"], "weight": 2.0}], False),
        ("data.rules", [{"rule": "length"}], [{"rule": "length", "min_answer_chars": 1}], True),
        ("data.rules", [{"rule": "length"}], [{"rule": "length", "min_answer_chars": 2}], False),
        (
            "space.seed",
            {"distribution": "int", "low": 1, "high": 2},
            {"distribution": "int", "low": 1, "high": 3},
            False,
        ),
        (
            "space.seed",
            {"distribution": "int", "low": 1, "high": 2},
            {"distribution": "int", "low": 1, "high": 2, "step": 1, "log": False, "when": {}},
            True,
        ),
        ("optimizer.beta1", 0.9, 0.8, False),
    ],
)
def test_the_same_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, before: Any, after: Any, is_same: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    here = json.loads(json.dumps(after).replace("{here}", str(tmp_path)))
    directory = str(tmp_path / "storage" / "sweeps" / "s") + "/"
    assert locations.same_in_search(directory, name, before, here) is is_same
