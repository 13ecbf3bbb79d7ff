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


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({}, "nothing to tell apart"),
        ({"labels": "spam"}, "nothing to tell apart"),
        ({"labels": ["spam", "spam"]}, "one name each"),
        ({"labels": ["spam", " "]}, "one name each"),
        ({"labels": ["spam", "ham"], "class_weights": {"sapm": 2.0}}, "cannot be used"),
        ({"labels": ["spam", "ham"], "class_weights": {"spam": 0.0}}, "cannot be used"),
    ],
)
def test_labels(section: dict[str, Any], named: str) -> None:
    check_recipe(make_recipe(objective={"kind": "classify", "labels": ["spam", "ham"], "class_weights": {"ham": 2}}))
    check_recipe(make_recipe(objective={"kind": "classify", "labels": ["spam"], "multi_label": True}))
    with pytest.raises(RecipeError, match=named):
        check_recipe(make_recipe(objective={"kind": "classify", **section}))


def test_texts_with_labels_are_not_split() -> None:
    given = make_recipe(objective={"kind": "classify", "labels": ["spam", "ham"]})
    check_recipe(change(given, {"data.over_long": "truncate"}))
    with pytest.raises(RecipeError, match="one sample"):
        check_recipe(change(given, {"data.over_long": "split"}))
    with pytest.raises(RecipeError, match="texts with labels are not streamed"):
        check_recipe(change(given, STREAM))


def test_a_probe_needs_a_head() -> None:
    check_recipe(make_recipe(objective={"kind": "reward"}, method={"kind": "probe"}))
    with pytest.raises(RecipeError, match="this one has none"):
        check_recipe(make_recipe(method={"kind": "probe"}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data.over_long": "split"}, "cut answers cannot be compared, or judged"),
        (STREAM, "answers that are compared, or judged, and texts with labels are not streamed"),
        ({"data.mixture": {"weight_column": "w"}}, "weight_column: w"),
    ],
)
def test_what_judged_answers_cannot_go_with(changes: dict[str, Any], named: str) -> None:
    given = make_recipe(objective={"kind": "kto"})
    check_recipe(given)
    with pytest.raises(RecipeError, match=named):
        check_recipe(change(given, changes))
