"""`raysft check`: what a run would be, in lines, and what of it is there already. Starts nothing, writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_dirs import make_run, recipe_of
from small import make_recipe

from raysft.errors import ConflictError, DataError, ModelError
from raysft.recipe.change import change
from raysft.recipe.schema import Recipe
from raysft.run import check as module
from raysft.run.check import check
from raysft.run.rundir import run_location


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return make_recipe(tmp_path_factory.mktemp("check"), count=20)


def line(lines: tuple[str, ...], label: str) -> str:
    (found,) = [one for one in lines if one.startswith(f"{label} ")]
    return found


def test_all_that_is_known_and_nothing_is_written(recipe: Recipe) -> None:
    run = Path(run_location(recipe))
    before = sorted(run.parent.parent.rglob("*")) if run.parent.parent.exists() else []
    found = check(recipe)
    assert found.run == str(run)
    assert line(found.lines, "data").startswith("data         1 files, ")
    assert f"{found.model_type}, " in line(found.lines, "model")
    assert line(found.lines, "trained")
    assert line(found.lines, "directory") == f"directory    {run}: new"
    assert (sorted(run.parent.parent.rglob("*")) if run.parent.parent.exists() else []) == before


def test_the_length_of_a_run_is_told_as_far_as_it_is_known(recipe: Recipe) -> None:
    bounded = check(change(recipe, {"train.max_steps": 7}))
    assert bounded.total_steps == 7
    assert line(bounded.lines, "run").startswith("run          7 steps of ")
    open_end = check(change(recipe, {"train.max_steps": None, "train.epochs": 3}))
    assert open_end.total_steps is None
    assert "3 epochs" in line(open_end.lines, "run")


def test_held_out_files_are_counted_too(recipe: Recipe) -> None:
    (source,) = recipe.data.sources
    found = check(change(recipe, {"data.eval": list(source.path), "data.eval_fraction": 0.0}))
    assert line(found.lines, "held out").startswith("held out     1 files, ")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"data.train": "nowhere.jsonl"}, DataError),
        ({"model.tokenizer": "nowhere"}, ModelError),
        ({"data.template": "chatlm"}, DataError),
    ],
)
def test_the_first_thing_that_would_stop_it(recipe: Recipe, changes: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        check(change(recipe, changes))


def test_what_is_there_under_the_runs_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "storage", "one", 1)
    own = recipe_of(tmp_path / "storage", "one", 1)
    assert module._directory(own) == f"directory    {run}: this run has finished"
    (run / "result.json").unlink()
    assert module._directory(own) == f"directory    {run}: goes on from step 8"
    for commit in (run / "checkpoints").rglob("commit.json"):
        commit.unlink()
    assert module._directory(own) == f"directory    {run}: begun, no checkpoint yet"
    with pytest.raises(ConflictError, match="learning_rate"):
        module._directory(recipe_of(tmp_path / "storage", "one", 2))
