"""Layers dealt to stages so that the slowest has least to do."""

from __future__ import annotations

import pytest

from raysft.recipe.stage_balance import balance


@pytest.mark.parametrize(
    ("costs", "stages", "expected"),
    [
        ([1, 1, 1, 1], 2, [2, 2]),
        ([1, 1, 1, 3], 2, [3, 1]),  # a head as large as two layers
        ([1, 1, 1, 1, 9], 3, [2, 2, 1]),
        ([2, 2, 2, 3], 3, [1, 2, 1]),
        ([1, 1, 1], 3, [1, 1, 1]),
        ([5], 1, [1]),
    ],
)
def test_balance(costs: list[float], stages: int, expected: list[int]) -> None:
    parts = balance(costs, stages)
    assert [i for part in parts for i in part] == list(range(len(costs)))
    assert [len(part) for part in parts] == expected
