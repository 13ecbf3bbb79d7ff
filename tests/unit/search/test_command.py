"""A search from its recipe: where it lies, how many trials fit, whether it is over, and what is left of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from replay import search_recipe

from raysft.errors import StorageError, UserError
from raysft.recipe.change import change
from raysft.recipe.load import load_recipe
from raysft.recipe.schema import Recipe
from raysft.recipe.tune_checks import check_tune
from raysft.search.command import _slots, is_finished, open_study, report, search_directory
from raysft.search.sweep import Sweep, TrialCost, TrialEnd

RATE = {"optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 1e-2}}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    fresh = search_recipe(RATE, budget={"trials": 3}, searcher="random", scheduler="none")
    return change(fresh, {"storage": str(tmp_path / "storage")})


def play(recipe: Recipe, count: int, end: str = "finished") -> None:
    """So many trials of a search, each with the learning rate as its loss."""
    Path(search_directory(recipe)).mkdir(parents=True, exist_ok=True)
    tune = check_tune(recipe)
    sweep = Sweep(recipe, tune, open_study(recipe, tune), admit=lambda point: None)
    for _ in range(count):
        trial = sweep.next()
        assert trial is not None
        value = 1000 * trial.point["optimizer.learning_rate"]
        sweep.report(trial.number, 2, (value,), TrialCost(1.0, 1.0), is_last=True)
        sweep.end(trial.number, TrialEnd(end), TrialCost(1.0, 1.0))


def test_trials_of_their_own_or_together_in_a_process(recipe: Recipe) -> None:
    tune = check_tune(recipe)
    assert (_slots(recipe, tune, 2).concurrent, _slots(recipe, tune, 2).processes) == (2, 0)
    one = check_tune(change(recipe, {"tune.concurrent": 1}))
    assert _slots(recipe, one, 2).concurrent == 1
    lora = change(recipe, {"method": {"kind": "lora"}})
    fused = _slots(lora, check_tune(lora), 2)
    assert (fused.concurrent, fused.processes) == (3, 2), "three trials, in two processes"


def test_a_search_is_over_when_its_budget_is_spent(recipe: Recipe) -> None:
    tune = check_tune(recipe)
    assert not is_finished(recipe, tune), "it has not begun"
    play(recipe, 2)
    assert not is_finished(recipe, tune)
    play(recipe, 1)
    assert is_finished(recipe, tune)
    larger = change(recipe, {"tune.budget.trials": 4})
    assert not is_finished(larger, check_tune(larger))


def test_a_report_of_a_search_that_is_not_there(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="there is no search") as caught:
        report(recipe)
    assert search_directory(recipe) in caught.value.got
    assert "raysft tune" in caught.value.fix


def test_a_report_leaves_the_best_recipe_ready_to_train(recipe: Recipe, tmp_path: Path) -> None:
    play(recipe, 3)
    found = report(recipe)
    losses = {trial.number: trial.values[0] for trial in found.facts.trials}
    assert found.facts.best == (min(losses, key=losses.__getitem__),)
    assert found.best is not None
    assert found.best.optimizer.learning_rate == pytest.approx(min(losses.values()) / 1000)
    assert found.best_recipe is not None
    assert load_recipe(found.best_recipe) == found.best
    assert found.best.name.startswith(f"{recipe.name}-")
    assert Path(found.report).read_text().count("<html") == 1
    assert found.lines()[-1] == f"best recipe  {found.best_recipe}"


def test_before_a_trial_has_finished_there_is_no_best(recipe: Recipe) -> None:
    play(recipe, 1, end="failed")
    found = report(recipe)
    assert (found.best, found.best_recipe) == (None, None)
    assert [trial.state for trial in found.facts.trials] == ["failed"]


def test_secrets_of_a_recipe_are_on_no_page(recipe: Recipe) -> None:
    signed = change(recipe, {"data.train": "https://host/a.jsonl?X-Amz-Signature=GEHEIM"})
    play(signed, 3)
    found = report(signed)
    assert "GEHEIM" not in Path(found.report).read_text()
    assert found.best_recipe is not None
    written = yaml.safe_load(Path(found.best_recipe).read_text())
    assert "GEHEIM" in str(written["data"]["train"]), "or it could not be trained"


def test_a_study_needs_a_local_directory_or_a_database(recipe: Recipe) -> None:
    far = change(recipe, {"storage": "s3://bucket/x"})
    with pytest.raises(StorageError, match="cannot lie in this storage") as caught:
        open_study(far, check_tune(far))
    assert "postgresql://" in caught.value.fix
