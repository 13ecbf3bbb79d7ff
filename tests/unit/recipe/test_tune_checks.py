"""Searches that cannot begin, and those that would learn nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from searches import CONDITIONAL, KIND, RANK, RATE, recipe

from raysft.errors import RecipeError
from raysft.recipe.change import change
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.recipe.tune import COSTS, TuneSection
from raysft.recipe.tune_checks import ABILITIES, check_tune, tune_advice


def test_a_measure_of_held_out_rows_belongs_to_the_objective() -> None:
    def of(objective: Any, metric: str, **tune: Any) -> Recipe:
        return change(recipe(metrics=metric, scheduler="none", **tune), {"objective": objective})

    assert check_tune(of("dpo", "held_out/accuracy")).modes == ("max",)
    assert check_tune(of({"kl_weight": 0.1}, "held_out/kl")).modes == ("min",)
    told = {"held_out/macro_f1": "max", "held_out/ece": "min", "held_out/brier": "min", "held_out/accuracy": "max"}
    for metric, mode in told.items():
        assert check_tune(of({"kind": "classify", "labels": ["a", "b"]}, metric)).modes == (mode,)
    assert check_tune(of("contrastive", "held_out/recall_at_1")).modes == ("max",)
    for objective, metric in (
        ("sft", "held_out/accuracy"),
        ("sft", "held_out/kl"),
        ("dpo", "held_out/nll"),
        ("sft", "held_out/ece"),
    ):
        with pytest.raises(RecipeError) as caught:
            check_tune(of(objective, metric))
        assert metric in caught.value.got
        assert "held_out/" in caught.value.expected
    for metric in ("held_out/loss", "train_loss", "held_out/dft"):
        with pytest.raises(RecipeError, match="does not tell the better"):
            check_tune(of("dft", metric))
    assert check_tune(of("dft", "held_out/nll")).modes == ("min",)
    varied = {"objective.kl_weight": {"distribution": "uniform", "low": 0.01, "high": 1.0}}
    assert check_tune(of("sft", "held_out/kl", space=varied)).modes == ("min",)


def test_every_searcher_says_what_it_can_hold() -> None:
    properties = TuneSection.model_json_schema()["properties"]
    assert set(properties["searcher"]["enum"]) == ABILITIES.keys()
    one, measure, _ = properties["metrics"]["anyOf"]
    assert set(one["enum"]) == {*COSTS, "held_out_loss"}
    assert re.fullmatch(measure["pattern"], "held_out/loss")


def test_measures_of_named_sets_and_their_names_of_today() -> None:
    sets = {"evaluate": {"sets": {"dev": {"data": "dev.jsonl"}, "said": ANSWERS}}}
    assert check_tune(change(recipe(metrics="dev/loss", scheduler="none"), sets)).modes == ("min",)
    old = recipe(metrics=["held_out_loss", "tokens_per_s"], scheduler="none")
    assert check_tune(old).metrics == ("held_out/loss", "tokens_per_s")
    for metric in ("accuracy", "dev/accuracy", "said/loss", "said/exact_match", "other/loss", "dev/nothing"):
        with pytest.raises(RecipeError) as caught:
            check_tune(change(recipe(metrics=metric, scheduler="none"), sets))
        assert metric in caught.value.got
        assert "dev/loss" in caught.value.expected


ANSWERS = {"data": "said.jsonl", "metrics": "exact_match", "prompts": 5}


@pytest.mark.parametrize(
    ("space", "tune", "words"),
    [
        ({"optimizer.learning_rate": {**RATE, "low": 1e-2}}, {}, "holds no range"),
        ({"method.rank": {**RANK, "log": True, "step": 2}}, {}, "logarithmic"),
        ({"method.rank": {"distribution": "choice", "values": [2, 4, 2]}}, {}, "twice"),
        (CONDITIONAL, {"searcher": "gp"}, "a `when` at method.rank"),
        (CONDITIONAL, {"searcher": "cmaes"}, "set tune.searcher: tpe"),
        (CONDITIONAL, {"searcher": "qmc"}, "without conditions"),
        ({"method.kind": KIND, "method.alpha": RATE}, {"searcher": "cmaes"}, "a choice at method.kind"),
        ({"optimizer.learning_rate": RATE}, {"searcher": "cmaes"}, "at least 2 fields"),
        (
            {"optimizer.learning_rate": RATE, "method.rank": RANK},
            {"searcher": "cmaes", "metrics": ["held_out/loss", "tokens_per_s"], "scheduler": "none"},
            "one metric",
        ),
        ({"optimizer.learning_rate": RATE}, {"searcher": "grid"}, "tune.space.optimizer.learning_rate.points"),
        ({"optimizer.learning_rate": RATE}, {"metrics": ["held_out/loss", "tokens_per_s"]}, "judges by one metric"),
        ({"optimizer.learning_rate": RATE}, {"budget": {}}, "never end"),
        ({"optimizer.learning_rate": RATE}, {"budget": {"gpu_hours": 1.0}}, "core_hours"),
        ({"optimizer.learning_rate": RATE}, {"metrics": ["train_loss", "train_loss"]}, "twice"),
        ({"method.rank": RANK}, {"scheduler": "pbt"}, "method.rank"),
        ({"optimizer.learning_rate": RATE}, {"scheduler": "pbt", "budget": {"trials": 1}}, "the population"),
    ],
)
def test_what_cannot_begin_is_refused(space: dict[str, Any], tune: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        check_tune(recipe(space, **tune))
    assert words in str(refused.value)
    assert refused.value.fix


def test_a_metric_that_trials_never_report_is_refused() -> None:
    fields = recipe().model_dump(mode="json")
    with pytest.raises(RecipeError, match="never report"):
        check_tune(parse_recipe({**fields, "data": {**fields["data"], "eval_fraction": 0.0}}))
    with pytest.raises(RecipeError, match="before their end"):
        check_tune(parse_recipe({**fields, "evaluate": {}}))
    with pytest.raises(RecipeError, match="what to search"):
        check_tune(parse_recipe({**fields, "tune": None}))


def test_a_searcher_that_would_learn_nothing_is_told() -> None:
    assert "tpe" in tune_advice(check_tune(recipe(searcher="gp")))[0]
    assert tune_advice(check_tune(recipe(searcher="gp", scheduler="none"))) == []
    assert tune_advice(check_tune(recipe())) == []
    weight = {"objective.kl_weight": {"distribution": "uniform", "low": 0.01, "high": 1.0}}
    (told,) = tune_advice(check_tune(recipe(space=weight)))
    assert "objective.kl_weight changes what the loss is" in told
    assert tune_advice(check_tune(recipe(space=weight, metrics="held_out/nll", scheduler="none"))) == []
