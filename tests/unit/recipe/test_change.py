"""A dotted change is what a file with that field says, and is refused in the same words."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe

from raysft.errors import RecipeError
from raysft.recipe.change import change


@pytest.mark.parametrize(
    ("changes", "sections"),
    [
        ({}, {}),
        ({"name": "other", "tune": None}, {"name": "other", "tune": None}),
        (
            {"train.max_steps": 50, "train.precision": "bf16"},
            {"train": {"max_steps": 50, "precision": "bf16"}},
        ),
        ({"model.config.vocab_size": 99}, {"model": {"config": {"model_type": "llama", "vocab_size": 99}}}),
        ({"data.mixture.temperature": 2.5}, {"data": {"mixture": {"temperature": 2.5}}}),
        ({"data.train": ["a", {"path": "b"}]}, {"data": {"train": ["a", {"path": "b"}]}}),
        ({"cluster.workers": {"min": 1, "max": 4}}, {"cluster": {"workers": {"min": 1, "max": 4}}}),
    ],
)
def test_it_is_the_recipe_that_a_file_would_give(changes: dict[str, Any], sections: dict[str, Any]) -> None:
    base = make_recipe(model={"config": {"model_type": "llama"}})
    wanted = make_recipe(**({"model": {"config": {"model_type": "llama"}}} | sections))
    assert change(base, changes) == wanted
    assert base == make_recipe(model={"config": {"model_type": "llama"}}), "the old one is as it was"


def test_another_kind_keeps_what_both_kinds_have() -> None:
    lora = make_recipe(method={"kind": "lora", "rank": 8, "dropout": 0.5})
    full = change(lora, {"method.kind": "full"})
    assert full == make_recipe()
    assert change(full, {"method.kind": "lora", "method.rank": 3}) == make_recipe(method={"kind": "lora", "rank": 3})
    other = make_recipe(method={"kind": "lora", "rank": 3, "dropout": 0.5})
    assert change(lora, {"method.kind": "lora", "method.rank": 3}) == other
    with pytest.raises(RecipeError, match=r"method\.kind: full has no field rank"):
        change(lora, {"method.kind": "full", "method.rank": 3})


def test_what_no_name_leads_into_is_kept_as_it_is() -> None:
    base = make_recipe()
    assert change(base, {"train.max_steps": 3}).data is base.data


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train.max_steps": 0}, "train.max_steps is wrong"),
        ({"train.max_step": 3}, "did you mean train.max_steps?"),
        ({"traim.max_steps": 3}, "traim has no fields"),
        ({"name.first": "x"}, "name has no fields"),
        ({"tune.searcher": "grid"}, "tune has no fields"),
        ({"cluster.workers": "two", "seed": -1}, "in 2 places"),
    ],
)
def test_what_a_file_may_not_say(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        change(make_recipe(), changes)
    assert told in str(caught.value)
