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


def test_layers_that_join_one_by_one() -> None:
    method = {"kind": "freeze", "layers": 3, "unfreeze_every_steps": 4}
    assert "optimizer.weight_decay: 0.1" in refuse(method=method, optimizer={"weight_decay": 0.1})
    assert "nothing is left to join" in refuse(method={**method, "layers": -1})
    assert "parallel.tensor: 2" in refuse(method=method, parallel={"tensor": 2}, cluster={"workers": 2})
    told = refuse(method=method, train={"max_steps": 8})
    assert "the last from step 9 on, of 8" in told
    assert "unfreeze_every_steps: 2" in told
    check_recipe(make_recipe(method=method, train={"max_steps": 9}))


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
