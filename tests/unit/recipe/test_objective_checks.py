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
