"""What guarded sets lose: towards worse, whichever way a measure is better."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe

from raysft.errors import RecipeError
from raysft.recipe.forgetting import check_forgetting, forgetting_lines, forgotten, guarded_losses, guards


def record(**values: float) -> dict[str, Any]:
    return {"metrics": {name: {"value": value, "count": 9} for name, value in values.items()}, "num_prompts": 9}


BEFORE = {"general": record(loss=2.0, perplexity=7.4, exact_match=0.75, length=10.0), "other": record(loss=1.0)}
AFTER = {"general": record(loss=2.5, perplexity=12.2, exact_match=0.5, length=90.0), "other": record(loss=3.0)}


def test_worse_is_lost_whichever_way_is_better() -> None:
    rows = forgotten(["general"], BEFORE, AFTER)
    assert {row.measure: row.lost for row in rows} == pytest.approx({"loss": 0.5, "exact_match": 0.25})
    assert [row.text for row in rows] == ["+0.5000", "+25.0%"]
    gained = forgotten(["general"], AFTER, BEFORE)
    assert [row.text for row in gained] == ["-0.5000", "-25.0%"]
    assert forgetting_lines(rows)[0] == "forgetting   general: loss +0.5000 (2.0000 before, 2.5000 after)"


def test_what_was_not_measured_twice_is_not_told() -> None:
    assert forgotten(["general"], {}, AFTER) == []
    assert forgotten(["general"], BEFORE, {}) == []
    assert forgotten(["missing"], BEFORE, AFTER) == []


def test_the_test_of_a_change_is_told() -> None:
    change = {"difference": -0.25, "low": -0.4, "high": -0.1, "p": 0.004, "count": 9}
    after = {"general": {**AFTER["general"], "changes": {"exact_match": change}}}
    assert forgotten(["general"], BEFORE, after)[1].change == "-25.0% (-40.0% to -10.0%), p = 0.004"


def test_only_sets_that_say_so_are_guards() -> None:
    sets = {"general": {"data": "a.jsonl", "guard": True}, "dev": {"data": "b.jsonl"}}
    assert guards(make_recipe(evaluate={"sets": sets})) == ("general",)


GUARDED = {"general": {"data": "a.jsonl", "guard": True}, "other": {"data": "b.jsonl"}}


@pytest.mark.parametrize(
    ("evaluate", "objective", "wrong"),
    [
        ({"every_steps": 5, "sets": GUARDED}, {}, ""),
        ({"sets": GUARDED}, {}, "every_steps: null"),
        ({"every_steps": 5, "sets": {"other": GUARDED["other"]}}, {}, "no guarded set"),
        ({"every_steps": 5, "sets": GUARDED}, {"kind": "reward"}, "no likelihood"),
    ],
)
def test_a_run_that_cannot_be_ended_by_what_it_forgets_is_refused(
    evaluate: dict[str, Any], objective: dict[str, Any], wrong: str
) -> None:
    recipe = make_recipe(
        evaluate={**evaluate, "stop_at_forgetting_nats": 0.1}, **({"objective": objective} if objective else {})
    )
    if not wrong:
        check_forgetting(recipe)
        assert guarded_losses(recipe) == ("general/nll",)
        return
    with pytest.raises(RecipeError, match="ended by what it forgets") as raised:
        check_forgetting(recipe)
    assert wrong in str(raised.value)


def test_a_guard_that_is_trained_on_is_refused() -> None:
    sets = {"general": {"data": ["other.jsonl", "train.jsonl"], "guard": True}}
    for train in (
        "train.jsonl",
        [{"path": ["x.jsonl", "train.jsonl"]}],
        "./train.jsonl",
        "tra*.jsonl",
        "x/../train.jsonl",
    ):
        with pytest.raises(RecipeError, match="nothing of what is forgotten") as raised:
            check_forgetting(make_recipe(data={"train": train}, evaluate={"sets": sets}))
        assert "train.jsonl in data.train" in raised.value.got
    check_forgetting(make_recipe(data={"train": "mine.jsonl"}, evaluate={"sets": sets}))
    sets["general"]["guard"] = False
    check_forgetting(make_recipe(data={"train": "train.jsonl"}, evaluate={"sets": sets}))
