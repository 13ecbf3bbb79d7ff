"""What an objective cannot go with is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe

from raysft.errors import RecipeError
from raysft.recipe.change import change
from raysft.recipe.checks import check_recipe

STREAM = {"data.mode": "stream", "data.order": "windowed", "train.max_steps": 5, "data.eval_fraction": 0.0}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"evaluate.generate_prompts": 5, "data.eval_fraction": 0.1}, "answers no prompts"),
        ({"method": {"kind": "prompt"}}, "exported with a whole model"),
        ({"export.merged": False}, "export.merged: false"),
    ],
)
def test_what_a_head_of_its_own_cannot_go_with(changes: dict[str, Any], named: str) -> None:
    given = make_recipe(objective={"kind": "reward"})
    check_recipe(given)
    with pytest.raises(RecipeError, match=named):
        check_recipe(change(given, changes))


def test_a_probe_needs_a_head() -> None:
    check_recipe(make_recipe(objective={"kind": "reward"}, method={"kind": "probe"}))
    with pytest.raises(RecipeError, match="this one has none"):
        check_recipe(make_recipe(method={"kind": "probe"}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data.over_long": "split"}, "cut answers cannot be compared, or judged"),
        (STREAM, "answers that are compared, or judged, are not streamed"),
        ({"data.mixture": {"weight_column": "w"}}, "weight_column: w"),
    ],
)
def test_what_judged_answers_cannot_go_with(changes: dict[str, Any], named: str) -> None:
    given = make_recipe(objective={"kind": "kto"})
    check_recipe(given)
    with pytest.raises(RecipeError, match=named):
        check_recipe(change(given, changes))
