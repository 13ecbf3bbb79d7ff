"""What Muon and Adafactor do not go with is refused with the fix."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe

from raysft.errors import RecipeError
from raysft.recipe.checks import check_recipe

MUON = {"kind": "muon"}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"parallel": {"tensor": 2}, "cluster": {"workers": 2}}, "parallel.tensor: 2 (it cuts a matrix)"),
        ({"parallel": {"pipeline": 2, "zero": 1}, "cluster": {"workers": 2}}, "parallel.pipeline: 2"),
        ({"parallel": {"zero": 2, "offload": "cpu"}}, "parallel.offload: cpu"),
        ({"parallel": {"auto": True}}, "parallel.auto"),
        ({"method": {"kind": "ia3"}}, "method.kind: ia3"),
        ({"method": {"kind": "prompt"}}, "method.kind: prompt"),
    ],
)
def test_what_cuts_matrices_or_has_none_is_refused(fields: dict[str, Any], told: str) -> None:
    recipe = make_recipe(optimizer=MUON, **fields)
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe)
    assert told in caught.value.got
    assert "optimizer.kind: adamw" in caught.value.fix
    check_recipe(make_recipe(**fields))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"parallel": {"tensor": 2}, "cluster": {"workers": 2}}, "parallel.tensor: 2 (it cuts a matrix)"),
        ({"parallel": {"pipeline": 2, "zero": 1}, "cluster": {"workers": 2}}, "parallel.pipeline: 2"),
        ({"parallel": {"zero": 2, "offload": "cpu"}}, "parallel.offload: cpu"),
    ],
)
def test_adafactor_sees_whole_matrices(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(make_recipe(optimizer={"kind": "adafactor"}, **fields))
    assert told in caught.value.got
    for kind in ("full", "ia3", "prompt", "adalora"):
        check_recipe(make_recipe(optimizer={"kind": "adafactor"}, method={"kind": kind}, parallel={"zero": 3}))


def test_adafactor_has_no_betas() -> None:
    with pytest.raises(RecipeError, match="beta1"):
        make_recipe(optimizer={"kind": "adafactor", "beta1": 0.8})


@pytest.mark.parametrize("zero", range(4))
@pytest.mark.parametrize("kind", ["full", "freeze", "lora"])
def test_every_stage_of_zero_is_allowed(zero: int, kind: str) -> None:
    check_recipe(make_recipe(optimizer=MUON, parallel={"zero": zero}, method={"kind": kind}))
