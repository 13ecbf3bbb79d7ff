"""Which trials train together on one base model."""

from __future__ import annotations

from typing import Any

import pytest
from searches import CONDITIONAL, FREE, RANK, RATE, lora

from raysft.errors import RecipeError
from raysft.recipe.change import change
from raysft.recipe.tune_checks import check_tune
from raysft.recipe.tune_executor import is_fused, obstacles, trials_at_a_time


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


def test_live_teachers_stand_against_it() -> None:
    alone = lora()
    taught = change(alone, {"objective": {"kind": "distill", "teachers": ["t"], "live": True}})
    assert obstacles(alone, check_tune(alone)) == []
    assert [words for words in obstacles(taught, check_tune(taught)) if words.startswith("objective.live")]


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
