"""What an objective cannot go with is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe

from raysft.errors import RecipeError
from raysft.recipe.change import change
from raysft.recipe.checks import check_recipe
from raysft.recipe.evaluation_sets import best_by

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


def test_live_teachers() -> None:
    section = {"kind": "distill", "teachers": ["t"], "live": True}
    given = make_recipe(objective=section)
    check_recipe(given)
    check_recipe(change(given, STREAM))
    with pytest.raises(RecipeError, match="written before training"):
        check_recipe(change(given, {**STREAM, "objective.live": False}))
    with pytest.raises(RecipeError, match="live teachers read whole rows"):
        check_recipe(change(given, {"parallel": {"pipeline": 2, "zero": 1}, "cluster.workers": 2}))


def test_an_order_has_no_margin() -> None:
    given = make_recipe(objective={"kind": "reward", "compare": "pairs", "margin_weight": 1.0})
    check_recipe(given)
    with pytest.raises(RecipeError, match="an order has no margin"):
        check_recipe(change(given, {"objective.compare": "list"}))


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({}, "nothing to tell apart"),
        ({"labels": "spam"}, "nothing to tell apart"),
        ({"labels": ["spam", "spam"]}, "one name each"),
        ({"labels": ["spam", " "]}, "one name each"),
        ({"labels": ["spam", "spam "]}, "one name each"),
        ({"labels": ["caf\u00e9", "cafe\u0301"]}, "one name each"),
        ({"labels": ["spam", "ham"], "class_weights": {"sapm": 2.0}}, "cannot be used"),
        ({"labels": ["spam", "ham"], "class_weights": {"spam": 0.0}}, "cannot be used"),
    ],
)
def test_labels(section: dict[str, Any], named: str) -> None:
    check_recipe(make_recipe(objective={"kind": "classify", "labels": ["spam", "ham"], "class_weights": {"ham": 2}}))
    check_recipe(make_recipe(objective={"kind": "classify", "labels": ["spam"], "multi_label": True}))
    with pytest.raises(RecipeError, match=named):
        check_recipe(make_recipe(objective={"kind": "classify", **section}))


@pytest.mark.parametrize(
    ("domains", "changes", "named"),
    [
        ({"names": ["mail"]}, {}, "names"),
        ({"names": []}, {}, "names"),
        ({"names": ["mail", "mail"]}, {}, "names"),
        ({"names": ["mail", " "]}, {}, "names"),
        ({"names": ["mail", "mail "]}, {}, "names"),
        ({"names": ["mail", "chat"], "column": "label"}, {}, "the label is no domain"),
        ({"names": ["mail", "chat"], "column": "label_text"}, {}, "the label is no domain"),
        ({"names": ["mail", "chat"]}, {"method": {"kind": "probe"}}, "a probe leaves the model as it is"),
    ],
)
def test_domains(domains: dict[str, Any], changes: dict[str, Any], named: str) -> None:
    section = {"kind": "classify", "labels": ["spam", "ham"]}
    given = make_recipe(objective={**section, "domains": {"names": ["mail", "chat"]}})
    check_recipe(given)
    check_recipe(change(given, {"method": {"kind": "probe"}, "objective.domains.reversal": 0.0}))
    with pytest.raises(RecipeError, match=named):
        check_recipe(change(given, {"objective.domains": domains, **changes}))


def test_the_loss_tells_no_better_model_where_domains_are_to_be_told_badly() -> None:
    domains = {"domains": {"names": ["mail", "chat"]}}
    for objective, best in (({}, "held_out/loss"), (domains, "held_out/classify")):
        given = make_recipe(
            objective={"kind": "classify", "labels": ["spam", "ham"], **objective},
            data={"eval_fraction": 0.1},
            checkpoint={"keep_best": True},
        )
        check_recipe(given)
        assert best_by(given) == best
    with pytest.raises(RecipeError, match="does not tell the better"):
        check_recipe(change(given, {"checkpoint.keep_best_by": "held_out/loss"}))
    check_recipe(change(given, {"checkpoint.keep_best_by": "held_out/accuracy"}))


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
