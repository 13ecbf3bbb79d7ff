"""The `tune:` section and its rules: every refusal names the fix."""

from __future__ import annotations

from typing import Any

import pytest
from replay import search_recipe
from searches import RATE, recipe

from raysft.errors import RecipeError
from raysft.recipe.tune_checks import check_tune


def test_defaults() -> None:
    tune = check_tune(recipe())
    assert (tune.searcher, tune.scheduler.kind, tune.metrics, tune.modes) == (
        "tpe",
        "asha",
        ("held_out/loss",),
        ("min",),
    )
    assert check_tune(recipe(scheduler="median", metrics="train_loss")).scheduler.kind == "median"
    assert check_tune(recipe(scheduler="none", metrics=["held_out/loss", "tokens_per_s"])).modes == ("min", "max")


@pytest.mark.parametrize(
    ("space", "tune", "words"),
    [
        ({}, {}, "tune.space"),
        ({"a": {"distribution": "normal", "low": 0, "high": 1}}, {}, "tune.space.a"),
        ({"optimizer.learning_rate": {**RATE, "low": 0.0}}, {}, "low"),
        ({"optimizer.learning_rate": RATE}, {"searcher": "tpe2"}, "tune.searcher"),
        ({"optimizer.learning_rate": RATE}, {"budget": {"trials": 0}}, "1 or more"),
        ({"optimizer.learning_rate": RATE}, {"budget": {"core_hours": 0.0}}, "more than 0"),
    ],
)
def test_wrong_fields_are_refused_by_the_schema(space: dict[str, Any], tune: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        search_recipe(space, **({"budget": {"trials": 4}} | tune))
    assert words in str(refused.value)
