"""Sizes of further adapters, counted by hand: 32 inputs, 48 outputs. As peft makes them: tests/unit/model/methods."""

from __future__ import annotations

import pytest
from fakes import make_recipe

from raysft.recipe.sections.method import TunerMethod
from raysft.recipe.tuners import TUNERS, tuner_details, tuner_options


@pytest.mark.parametrize(
    ("tuner", "options", "weights"),
    [
        ("fourierft", {"n_frequency": 10}, 10),
        ("hra", {"r": 3}, 3 * 32),
        ("loha", {"r": 3}, 2 * (3 * 32 + 3 * 48)),
        ("miss", {"r": 3}, 3 * 48),
        ("oft", {"oft_block_size": 8}, 4 * 28),
        ("vera", {"r": 3}, 3 + 48),
    ],
)
def test_weights_of_a_layer(tuner: str, options: dict[str, float], weights: int) -> None:
    method = make_recipe(method={"kind": "tuner", "tuner": tuner, "options": options}).method
    assert isinstance(method, TunerMethod)
    assert TUNERS[tuner].weights(tuner_options(method), 32, 48) == weights


def test_numbers_that_a_recipe_leaves_out_are_told_too() -> None:
    method = make_recipe(method={"kind": "tuner", "tuner": "loha", "options": {"r": 3}}).method
    assert isinstance(method, TunerMethod)
    assert tuner_details(method) == "LoHa, r 3, alpha 8, on all-linear"
