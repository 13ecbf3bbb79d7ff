"""The `tune:` section and its rules: every refusal names the fix."""

from __future__ import annotations

from typing import Any

import pytest
from replay import search_recipe

from raysft.errors import RecipeError
from raysft.recipe.change import change
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.recipe.tune import MODES, TuneSection
from raysft.recipe.tune_checks import ABILITIES, check_tune, tune_advice
from raysft.recipe.tune_executor import is_fused, obstacles, trials_at_a_time

RATE = {"distribution": "loguniform", "low": 1e-4, "high": 1e-2}
RANK = {"distribution": "int", "low": 2, "high": 16}
KIND = {"distribution": "choice", "values": ["full", "lora"]}
CONDITIONAL = {"method.kind": KIND, "method.rank": {**RANK, "when": {"method.kind": "lora"}}}


def recipe(space: dict[str, Any] | None = None, **tune: Any) -> Recipe:
    return search_recipe(space or {"optimizer.learning_rate": RATE}, **({"budget": {"trials": 4}} | tune))


def test_defaults() -> None:
    tune = check_tune(recipe())
    assert (tune.searcher, tune.scheduler.kind, tune.metrics, tune.modes) == (
        "tpe",
        "asha",
        ("held_out_loss",),
        ("min",),
    )
    assert check_tune(recipe(scheduler="median", metrics="train_loss")).scheduler.kind == "median"
    assert check_tune(recipe(scheduler="none", metrics=["held_out_loss", "tokens_per_s"])).modes == ("min", "max")


def test_a_measure_of_held_out_rows_belongs_to_the_objective() -> None:
    def of(objective: Any, metric: str, **tune: Any) -> Recipe:
        return change(recipe(metrics=metric, scheduler="none", **tune), {"objective": objective})

    assert check_tune(of("dpo", "held_out/accuracy")).modes == ("max",)
    assert check_tune(of({"kl_weight": 0.1}, "held_out/kl")).modes == ("min",)
    for objective, metric in (("sft", "held_out/accuracy"), ("sft", "held_out/kl"), ("dpo", "held_out/nll")):
        with pytest.raises(RecipeError) as caught:
            check_tune(of(objective, metric))
        assert metric in caught.value.got
        assert "held_out/" in caught.value.expected
    varied = {"objective.kl_weight": {"distribution": "uniform", "low": 0.01, "high": 1.0}}
    assert check_tune(of("sft", "held_out/kl", space=varied)).modes == ("min",)


def test_every_searcher_says_what_it_can_hold() -> None:
    properties = TuneSection.model_json_schema()["properties"]
    assert set(properties["searcher"]["enum"]) == ABILITIES.keys()
    assert set(properties["metrics"]["anyOf"][0]["enum"]) == MODES.keys()


@pytest.mark.parametrize(
    ("space", "tune", "words"),
    [
        ({}, {}, "tune.space"),
        ({"a": {"distribution": "normal", "low": 0, "high": 1}}, {}, "tune.space.a"),
        ({"optimizer.learning_rate": {**RATE, "low": 0.0}}, {}, "low"),
        ({"optimizer.learning_rate": RATE}, {"searcher": "tpe2"}, "tune.searcher"),
        ({"optimizer.learning_rate": RATE}, {"metrics": "accuracy"}, "held_out_loss"),
        ({"optimizer.learning_rate": RATE}, {"budget": {"trials": 0}}, "1 or more"),
        ({"optimizer.learning_rate": RATE}, {"budget": {"core_hours": 0.0}}, "more than 0"),
    ],
)
def test_wrong_fields_are_refused_by_the_schema(space: dict[str, Any], tune: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        search_recipe(space, **({"budget": {"trials": 4}} | tune))
    assert words in str(refused.value)


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
            {"searcher": "cmaes", "metrics": ["held_out_loss", "tokens_per_s"], "scheduler": "none"},
            "one metric",
        ),
        ({"optimizer.learning_rate": RATE}, {"searcher": "grid"}, "tune.space.optimizer.learning_rate.points"),
        ({"optimizer.learning_rate": RATE}, {"metrics": ["held_out_loss", "tokens_per_s"]}, "judges by one metric"),
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


def lora(space: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """A search that can be fused; changes: `tune__field`, or sections."""
    tune = {name.removeprefix("tune__"): changes.pop(name) for name in list(changes) if name.startswith("tune__")}
    fields = recipe(space or {"optimizer.learning_rate": RATE, "method.rank": RANK}, **tune).model_dump(mode="json")
    sections = {name: fields[name] | value for name, value in ({"method": {"kind": "lora"}} | changes).items()}
    return parse_recipe(fields | sections)


FREE: dict[str, Any] = {"optimizer.learning_rate": RATE}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"method": {"kind": "full"}}, "method.kind: full"),
        ({"space": CONDITIONAL}, "method.kind in tune.space"),
        ({"space": FREE | {"data.max_tokens": RANK}}, "data.max_tokens in tune.space"),
        ({"space": FREE | {"seed": RANK}}, "model.source: random"),
        ({"cluster": {"workers": 2}}, "cluster.workers: 2"),
        ({"data": {"mode": "stream", "order": "windowed"}}, "stream"),
        ({"parallel": {"auto": True}}, "parallel.auto"),
        ({"parallel": {"offload": "cpu"}}, "parallel.offload"),
        ({"train": {"gradient_checkpointing": True}, "method": {"kind": "lora", "dropout": 0.1}}, "drawn twice"),
        ({"tune__metrics": ["tokens_per_s"], "tune__scheduler": "none"}, "of all trials together"),
    ],
)
def test_what_cannot_train_together_is_refused_by_name(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        check_tune(lora(**changed, tune__executor="fused"))
    assert words in refused.value.got
    assert "separate" in refused.value.fix
    automatic = lora(**changed)
    assert not is_fused(automatic, check_tune(automatic), room=1)


def test_trials_train_together_where_there_are_more_of_them_than_workers() -> None:
    space = {**FREE, "method.alpha": RATE, "train.rows_per_step": RANK, "method.dropout": RATE}
    for wanted, room, fused in (
        (lora(space), 2, True),
        (lora(space), 4, False),
        (lora(space, tune__concurrent=2), 2, False),
        (lora(space, tune__executor="separate"), 1, False),
        (lora(space, tune__executor="fused"), 4, True),
    ):
        tune = check_tune(wanted)
        assert obstacles(wanted, tune) == []
        assert is_fused(wanted, tune, room) is fused
    assert trials_at_a_time(check_tune(lora()), 16) == 4  # tune.budget.trials
    assert trials_at_a_time(check_tune(lora(tune__concurrent=3)), 16) == 3
