"""The sets that a recipe is measured on: which there are, what they are asked, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe

from raysft.errors import RecipeError
from raysft.recipe import evaluation_sets as evaluation_sets_module
from raysft.recipe.checks import check_recipe
from raysft.recipe.evaluation_sets import (
    SetPlan,
    best_by,
    check_packages,
    evaluation_sets,
    ignored,
    measured_by_workers,
    measured_in_training,
    set_sources,
)
from raysft.recipe.fingerprint import fingerprints
from raysft.recipe.schema import Recipe

HELD = {"train": "t.jsonl", "eval_fraction": 0.1}
DEV = {"data": "dev.jsonl"}


def of(sets: dict[str, Any], data: Any = HELD, **sections: Any) -> Recipe:
    evaluate = sections.pop("evaluate", {})
    return make_recipe(data=data, evaluate={**evaluate, "sets": sets}, **sections)


def test_the_short_form_means_what_it_did() -> None:
    short = make_recipe(data=HELD, evaluate={"generate_prompts": 4, "max_rows": 9})
    long = of({"held_out": {"metrics": ["loss", "exact_match"], "prompts": 4, "max_rows": 9}})
    assert evaluation_sets(short) == evaluation_sets(long) == {"held_out": SetPlan(("loss", "exact_match"), 4, 9)}
    assert evaluation_sets(make_recipe(data={"train": "t.jsonl"})) == {}


def test_sets_change_no_fingerprint_of_what_is_trained() -> None:
    plain, with_sets = (fingerprints(one, "d") for one in (make_recipe(data=HELD), of({"dev": DEV})))
    assert plain["mathematics"] == with_sets["mathematics"]
    assert plain["execution"] != with_sets["execution"]


def test_a_set_reads_files_as_a_source_does() -> None:
    recipe = of(
        {
            "held_out": {"max_rows": 2},
            "dev": {"data": ["a.jsonl", "b.jsonl"], "format": "alpaca", "columns": {"instruction": "question"}},
        }
    )
    ((name, source),) = set_sources(recipe).items()
    assert (name, source.path, source.name) == ("dev", ("a.jsonl", "b.jsonl"), "eval")
    assert (source.format, source.columns) == ("alpaca", {"instruction": "question"})
    assert list(evaluation_sets(recipe)) == ["held_out", "dev"]


def test_what_is_measured_in_training_has_full_names() -> None:
    sets = {"dev": DEV, "said": {"data": "s.jsonl", "metrics": "exact_match", "prompts": 2}}
    assert measured_in_training(of(sets)) == dict.fromkeys(
        ("held_out/loss", "held_out/nll", "dev/loss", "dev/nll"), "min"
    )
    assert measured_in_training(of(sets, objective="dpo"))["dev/accuracy"] == "max"


def test_the_best_commit_goes_by_the_held_out_loss_or_what_is_named() -> None:
    assert best_by(make_recipe(data=HELD)) is None
    assert best_by(make_recipe(data=HELD, checkpoint={"keep_best": True})) == "held_out/loss"
    assert best_by(make_recipe(data=HELD, checkpoint={"keep_best_by": "held_out_loss"})) == "held_out/loss"
    assert best_by(of({"dev": DEV}, checkpoint={"keep_best_by": "dev/nll"})) == "dev/nll"
    assert best_by(make_recipe(data=HELD, checkpoint={"keep_best": True}, objective="dft")) == "held_out/nll"
    assert best_by(make_recipe(data={"train": "t"}, checkpoint={"keep_best": True})) == "held_out/loss", "as ever"


NONE = {"train": "t.jsonl"}


@pytest.mark.parametrize(
    ("sets", "more", "words"),
    [
        ({"dev": {}}, {}, "evaluate.sets.dev.data"),
        ({"a/b": DEV}, {}, "another name"),
        ({"": DEV}, {}, "another name"),
        ({"a b": DEV}, {}, "another name"),
        ({"held_out": DEV}, {}, "data.eval"),
        ({"held_out": {}}, {"data": NONE}, "data.eval_fraction"),
        ({"held_out": {}}, {"evaluate": {"generate_prompts": 3}}, "generate_prompts"),
        ({"dev": {**DEV, "metrics": ["blue"]}}, {}, "exact_match"),
        ({"dev": {**DEV, "metrics": []}}, {}, "metrics"),
        ({"dev": {**DEV, "metrics": ["loss", "loss"]}}, {}, "twice"),
        ({"dev": {**DEV, "metrics": ["exact_match"]}}, {}, "evaluate.sets.dev.prompts: 200"),
        ({"dev": {**DEV, "prompts": 3}}, {}, "metrics: [loss, exact_match]"),
        ({"dev": {**DEV, "weight": 2.0}}, {}, "weight"),
        ({"dev": DEV}, {"checkpoint": {"keep_best_by": "dev/accuracy"}}, "dev/loss"),
        ({"dev": DEV}, {"checkpoint": {"keep_best_by": "other/loss"}}, "dev/loss"),
        ({"dev": DEV}, {"checkpoint": {"keep_best": True}, "data": NONE}, "keep_best_by: dev/loss"),
        ({}, {"checkpoint": {"keep_best_by": "held_out/loss"}, "data": NONE}, "data.eval_fraction"),
        ({}, {"evaluate": {"every_steps": 3}, "data": NONE}, "no held-out data"),
    ],
)
def test_what_is_refused(sets: dict[str, Any], more: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        check_recipe(of(sets, **more))
    assert words in str(refused.value), refused.value
    assert refused.value.fix


def test_sets_alone_are_evaluated_in_training() -> None:
    recipe = of({"dev": DEV}, data=NONE, evaluate={"every_steps": 3})
    assert list(evaluation_sets(recipe)) == ["dev"]


def test_a_best_commit_that_nothing_can_tell_is_said() -> None:
    asked = make_recipe(checkpoint={"keep_best": True})
    (line,) = ignored(asked)
    assert "held_out/loss is not measured" in line
    assert ignored(make_recipe()) == []
    assert ignored(make_recipe(checkpoint={"keep_best": True}, data={"eval_fraction": 0.1})) == []


def test_a_metric_whose_package_is_missing_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [SetPlan(("loss", "exact_match", "bleu"), 5, 9)]
    check_packages(plans)
    monkeypatch.setattr(evaluation_sets_module, "find_spec", lambda name: None)
    check_packages([SetPlan(("loss", "exact_match", "rouge_l"), 5, 9)])
    with pytest.raises(RecipeError, match="metric bleu") as refused:
        check_packages(plans)
    assert "raysft[metrics]" in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "is_so"),
    [
        (of({"dev": DEV}), True),
        (of({}, evaluate={"max_rows": 3}, method={"kind": "lora", "rank": 2}), True),
        (of({}, objective={"kind": "sft", "kl_weight": 0.1}), True),
        (of({"dev": {**DEV, "metrics": ["loss", "exact_match"], "prompts": 2}}), False),
        (of({}, evaluate={"generate_prompts": 1}), False),
        (of({}, objective="dpo"), False),
        (of({}, method={"kind": "prefix", "virtual_tokens": 2}), False),
    ],
)
def test_losses_of_single_answers_are_the_workers_to_measure(recipe: Recipe, is_so: bool) -> None:
    assert measured_by_workers(recipe) == is_so


@pytest.mark.parametrize(
    ("objective", "measure"), [("dft", "held_out/loss"), ("eaft", "dev/eaft"), ("dft", "dev/dft")]
)
def test_a_loss_that_tells_no_better_model_is_no_judge(objective: str, measure: str) -> None:
    given = of({"dev": DEV}, checkpoint={"keep_best_by": measure}, objective=objective)
    with pytest.raises(RecipeError) as caught:
        check_recipe(given)
    assert "checkpoint.keep_best_by: held_out/nll" in caught.value.fix
    check_recipe(of({"dev": DEV}, checkpoint={"keep_best_by": "dev/nll"}, objective=objective))
    check_recipe(of({"dev": DEV}, checkpoint={"keep_best_by": "dev/loss"}, objective="sft"))


CODE = {"data": "code.jsonl", "format": "tested", "metrics": ["passes_tests", "length"], "prompts": 9}


@pytest.mark.parametrize(
    ("sets", "data", "refused"),
    [
        ({"code": CODE}, HELD, ""),
        ({"code": {**CODE, "format": "completion"}}, HELD, ""),
        (
            {"code": {**CODE, "metrics": ["passes_tests", "loss", "bleu"]}},
            HELD,
            "are tests, which answers are not like",
        ),
        ({"held_out": {"metrics": ["passes_tests"], "prompts": 9}}, HELD, "needs a set of its own"),
        ({"code": CODE}, {**HELD, "format": "tested"}, "tests would be trained on as answers"),
        ({}, {"train": [{"path": "t.jsonl", "format": "tested"}]}, "tests would be trained on as answers"),
    ],
)
def test_tests_are_references_of_code_alone(sets: dict[str, Any], data: Any, refused: str) -> None:
    recipe = of(sets, data)
    if not refused:
        check_recipe(recipe)
        return
    with pytest.raises(RecipeError, match=refused):
        check_recipe(recipe)
