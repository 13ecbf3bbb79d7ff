"""Fields, conditions, grids, points in recipes; what cannot be searched is refused with the fix."""

from __future__ import annotations

import math
from typing import Any

import pytest
from replay import search_recipe

from raysft.errors import RecipeError
from raysft.recipe.change import change
from raysft.recipe.schema import Recipe
from raysft.recipe.tune import TuneSection
from raysft.search.space import apply, check_space, contains, grid, holds, neighbours, ordered

RATE = {"distribution": "loguniform", "low": 1e-4, "high": 1e-2, "points": 3}


def section(recipe: Recipe) -> TuneSection:
    assert recipe.tune is not None
    return recipe.tune


def test_a_point_becomes_a_recipe() -> None:
    recipe = search_recipe({"optimizer.learning_rate": RATE}, budget={"trials": 1})
    point = {
        "optimizer.learning_rate": 1e-3,
        "method.kind": "lora",
        "method.target_modules": ["q_proj"],
        "model.config.num_layers": 3,
    }
    trial = apply(recipe, "sweep-4", point)
    assert trial.name == "sweep-4"
    assert trial.tune is None
    assert trial.optimizer.learning_rate == 1e-3
    assert trial.method.model_dump()["target_modules"] == ("q_proj",)
    assert trial.model.config == {"model_type": "llama", "num_layers": 3}
    unchanged = trial.model_copy(
        update={name: getattr(recipe, name) for name in ("name", "tune", "optimizer", "method", "model")}
    )
    assert unchanged == recipe


def test_a_grid_has_every_point_once_and_holds_conditions() -> None:
    space = {
        "method.rank": {"distribution": "int", "low": 4, "high": 12, "step": 4, "when": {"method.kind": "lora"}},
        "method.kind": {"distribution": "choice", "values": ["full", "lora"]},
        "optimizer.learning_rate": RATE,
        "optimizer.beta2": {"distribution": "uniform", "low": 0.9, "high": 0.99, "points": 2},
    }
    recipe = search_recipe(space, searcher="grid")
    points = grid(section(recipe).space, recipe.model_dump(mode="json"))
    assert len(points) == (1 + 3) * 3 * 2
    assert len({str(sorted(point.items())) for point in points}) == len(points)
    assert all(("method.rank" in point) == (point["method.kind"] == "lora") for point in points)
    rates = sorted({point["optimizer.learning_rate"] for point in points})
    assert [math.log10(rate) for rate in rates] == pytest.approx([-4, -3, -2])
    for point in points:
        apply(recipe, "x", point)


def test_conditions() -> None:
    base = {"method": {"kind": "lora"}, "train": {"precision": "bf16"}}
    assert holds({}, {}, base)
    assert holds({"method.kind": "lora"}, {}, base)  # the recipe's own value
    assert not holds({"method.kind": "lora"}, {"method.kind": "full"}, base)  # the trial's comes first
    assert holds({"method.kind": ["lora", "full"], "train.precision": "bf16"}, {"method.kind": "full"}, base)
    space = section(
        search_recipe(
            {
                "method.rank": {"distribution": "choice", "values": [1, 2], "when": {"method.kind": "lora"}},
                "method.kind": {"distribution": "choice", "values": ["full", "lora"]},
            },
            budget={"trials": 1},
        )
    ).space
    assert list(ordered(space)) == ["method.kind", "method.rank"]


def test_neighbours_stay_in_their_range() -> None:
    space = section(
        search_recipe(
            {
                "optimizer.learning_rate": RATE,
                "method.rank": {"distribution": "choice", "values": [2, 4, 8]},
                "method.alpha": {"distribution": "uniform", "low": 1.0, "high": 8.0},
            },
            budget={"trials": 1},
        )
    ).space
    assert neighbours(space["optimizer.learning_rate"], 1e-3, 0.1) == pytest.approx(8e-4)
    assert neighbours(space["optimizer.learning_rate"], 1e-2, 0.9) == 1e-2
    assert [neighbours(space["method.rank"], 4, draw) for draw in (0.1, 0.9)] == [2, 8]
    assert neighbours(space["method.rank"], 8, 0.9) == 8
    assert contains(space["method.rank"], 4)
    assert not contains(space["method.rank"], 5)


CIRCLE = {
    "method.rank": {"distribution": "int", "low": 1, "high": 2, "when": {"method.alpha": 1.0}},
    "method.alpha": {"distribution": "choice", "values": [1.0, 2.0], "when": {"method.rank": 1}},
}


@pytest.mark.parametrize(
    ("space", "start", "words"),
    [
        ({"optimizer.learing_rate": RATE}, (), "did you mean optimizer.learning_rate?"),
        ({"optimiser.learning_rate": RATE}, (), "did you mean optimizer.learning_rate?"),
        ({"train.rows_per_step": RATE}, (), "a whole number"),
        ({"method.kind": {"distribution": "choice", "values": ["lora", "lorax"]}}, (), "full or freeze"),
        ({"name": {"distribution": "choice", "values": ["a", "b"]}}, (), "cannot be searched"),
        ({"data.eval_fraction": RATE}, (), "cannot be searched"),
        ({"evaluate.max_rows": {"distribution": "int", "low": 1, "high": 8}}, (), "cannot be searched"),
        (CIRCLE, (), "circle"),
        (
            {"method.rank": {"distribution": "int", "low": 1, "high": 2, "when": {"method.knd": "lora"}}},
            (),
            "method.kind",
        ),
        (
            {"optimizer.learning_rate": RATE},
            ({"optimizer.learning_rat": 1e-3},),
            "did you mean optimizer.learning_rate",
        ),
        ({"optimizer.learning_rate": RATE}, ({"optimizer.learning_rate": 1.0},), "outside"),
    ],
)
def test_what_cannot_be_searched_is_refused(space: dict[str, Any], start: Any, words: str) -> None:
    recipe = search_recipe(space, budget={"trials": 1}, start=list(start))
    with pytest.raises(RecipeError) as refused:
        check_space(recipe, section(recipe))
    assert words in str(refused.value)
    assert refused.value.fix


KINDS = {"distribution": "choice", "values": ["full", "lora"]}
RANK = {"distribution": "int", "low": 2, "high": 8}
IN_LORA = RANK | {"when": {"method.kind": "lora"}}
IN_BOTH = RANK | {"when": {"method.kind": ["full", "lora"]}}


@pytest.mark.parametrize(
    ("method", "space", "told"),
    [
        ({"kind": "full"}, {"method.rank": RANK}, "method.kind: full, which has no rank"),
        ({"kind": "lora"}, {"method.rank": RANK, "method.kind": KINDS}, "add `when: {method.kind: lora}`"),
        ({"kind": "lora"}, {"method.rank": IN_BOTH, "method.kind": KINDS}, "method.kind: full, which"),
        ({"kind": "lora"}, {"method.ranc": RANK}, "names no field"),
        ({"kind": "full"}, {"method.kind": KINDS, "method.rank": IN_LORA | {"low": 0}}, "1 or more"),
        ({"kind": "lora"}, {"method.rank": RANK}, ""),
        ({"kind": "full"}, {"method.rank": IN_LORA, "method.kind": KINDS}, ""),
        ({"kind": "lora", "alpha": 4.0}, {"method.rank": IN_LORA, "method.kind": KINDS}, ""),
    ],
)
def test_a_field_of_one_kind_is_searched_in_trials_of_that_kind(
    method: dict[str, Any], space: dict[str, Any], told: str
) -> None:
    recipe = change(search_recipe(space, budget={"trials": 2}), {"method": method})
    if told:
        with pytest.raises(RecipeError) as caught:
            check_space(recipe, section(recipe))
        assert told in str(caught.value)
        return
    check_space(recipe, section(recipe))
    if "method.kind" in space:
        assert apply(recipe, "t", {"method.kind": "full"}).method.kind == "full"
        assert apply(recipe, "t", {"method.kind": "lora", "method.rank": 5}).model_dump()["method"]["rank"] == 5
