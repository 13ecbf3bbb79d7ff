"""Numbers of a method that contradict each other or the run, refused with the fix."""

from __future__ import annotations

import pytest
from fakes import make_recipe
from refusals import refuse

from raysft.errors import RecipeError
from raysft.recipe.checks import check_recipe
from raysft.recipe.model_checks import check_schedule

ADALORA = {"kind": "adalora", "warmup_share": 0.1, "final_share": 0.3}


@pytest.mark.parametrize(
    ("steps", "every", "fix"), [(16, 10, "every_steps: 2"), (5, 4, "every_steps: 1"), (1, 1, "train longer, or set")]
)
def test_a_schedule_of_ranks_that_is_longer_than_the_run(steps: int, every: int, fix: str) -> None:
    """0.6 of the steps lie between warm-up and end; an epoch's steps are known when the data are."""
    recipe = make_recipe(method={**ADALORA, "every_steps": every})
    with pytest.raises(RecipeError, match="AdaLoRA's schedule is longer than the run") as caught:
        check_schedule(recipe, steps)
    assert fix in caught.value.fix
    check_schedule(recipe, 40)
    told = refuse(method={**ADALORA, "every_steps": every}, train={"max_steps": steps})
    assert "schedule is longer" in told


@pytest.mark.parametrize(
    "parallel",
    [
        {"zero": 3},
        {"tensor": 2},
        {"pipeline": 2, "zero": 1},
        {"sequence": 2},
        {"offload": "cpu", "zero": 2},
        {"auto": True},
    ],
)
def test_four_bits_go_with_data_parallelism_to_zero_2(parallel: dict[str, object]) -> None:
    method, cluster = {"kind": "lora", "base_precision": "nf4"}, {"workers": 2}
    assert "parallel.zero: 2" in refuse(method=method, parallel=parallel, cluster=cluster)
    for zero in (0, 1, 2):
        check_recipe(make_recipe(method=method, parallel={"zero": zero}, cluster=cluster))
