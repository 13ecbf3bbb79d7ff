"""`objective:`: one section for each kind; its name alone stands for it; which measures it has."""

from __future__ import annotations

from typing import Any

import pytest
from sections import read, refused

from raysft.recipe.sections.objective import MEASURES_OF_ROWS, DpoObjective, SftObjective


@pytest.mark.parametrize("sft", [{}, "sft", {"kind": "sft"}, {"kl_weight": 0.0}])
def test_where_no_kind_is_named_it_is_supervised_tuning(sft: Any) -> None:
    assert read(objective=sft).objective == SftObjective()


def test_a_name_alone_is_the_kind_with_its_defaults() -> None:
    assert read(objective="dpo").objective == read(objective={"kind": "dpo", "beta": 0.1}).objective
    assert isinstance(read(objective="dpo").objective, DpoObjective)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"kind": "sft", "beta": 0.1}, ("objective.beta", "dpo")),
        ({"kind": "dpo", "kl_weight": 0.1}, ("objective.kl_weight", "sft")),
        ({"kind": "dpo", "beta": 0}, ("objective.beta", "more than 0")),
        ({"kl_weight": -1}, ("objective.kl_weight", "0 or more")),
        ({"kl_top_k": 257}, ("objective.kl_top_k", "256")),
        ({"kind": "dpo", "label_smoothing": 0.5}, ("objective.label_smoothing", "less than 0.5")),
        ({"kind": "simpo", "loss": "ipo"}, ("objective.loss", "dpo")),
        ("opro", ("'opro'", "sft", "dpo", "orpo")),
        (5, ("objective", "5")),
        ({"kind": "distill", "teachers": "t", "share": 0}, ("objective.share", "more than 0")),
        ({"kind": "distill", "teachers": "t", "teacher_weights": [-1]}, ("objective.teacher_weights",)),
    ],
)
def test_what_is_refused(objective: Any, words: tuple[str, ...]) -> None:
    told = refused(objective=objective)
    assert all(word in told for word in words), told


def test_measures_of_held_out_rows_say_which_way_is_better() -> None:
    assert MEASURES_OF_ROWS == {
        "loss": "min",
        "nll": "min",
        "smoothing": "min",
        "dft": "min",
        "eaft": "min",
        "distill": "min",
        "kl": "min",
        "dpo": "min",
        "cpo": "min",
        "simpo": "min",
        "orpo": "min",
        "kto": "min",
        "reward": "min",
        "centre": "min",
        "classify": "min",
        "domain": "max",
        "domain_accuracy": "min",
        "contrastive": "min",
        "preferred_nll": "min",
        "accuracy": "max",
        "margin": "max",
        "wanted_gain": "max",
        "unwanted_gain": "min",
        "drift": "min",
        "macro_f1": "max",
        "ece": "min",
        "brier": "min",
        "recall_at_1": "max",
        "recall_at_10": "max",
        "mrr": "max",
    }
    for section in (SftObjective, DpoObjective):
        assert set(section.needs) <= set(section.measures)
        assert set(section.needs.values()) <= set(section.model_fields)
