"""FLOPs of a step, counted by hand: 2 for a forward pass of a weight, 2 and 2 for its gradients."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe

from raysft.recipe.flops import attention_passes, flops_per_weight, graphs_at_once

MOVED = {"adversarial_epsilon": 1.0, "rows_per_step": 4}
LORA = {"kind": "lora", "rank": 4}


@pytest.mark.parametrize(
    ("sections", "weight", "attention", "graphs"),
    [
        ({}, 6, 1, 1),
        ({"method": LORA}, 4, 1, 1),
        ({"objective": "kto"}, 2 + 6, 1 + 1 / 3, 1),
        ({"objective": "kto", "method": LORA}, 2 + 4, 1 + 1 / 3, 1),
        ({"train": MOVED}, 4 + 6 + 6, 3, 2),
        ({"train": MOVED, "method": LORA}, 4 + 4 + 4, 3, 2),
    ],
)
def test_every_pass_is_counted(sections: dict[str, Any], weight: float, attention: float, graphs: int) -> None:
    if sections.get("objective"):
        sections = {**sections, "objective": {"kind": sections["objective"]}}
    recipe = make_recipe(**sections)
    assert flops_per_weight(recipe, 2) == weight
    assert attention_passes(recipe) == pytest.approx(attention)
    assert graphs_at_once(recipe) == graphs
