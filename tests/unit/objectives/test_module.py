"""The module that engines train: a model and its objective in one forward, tensors in, sums out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fakes import LLAMA, FakeStore, make_recipe
from families import V, make_model
from objective_rows import CPU
from torch import nn

from raysft.data.feed.collate import collate
from raysft.model.fast.loss_head import install_loss_head
from raysft.objectives.batch import on_device
from raysft.objectives.module import OBJECTIVES, ObjectiveModule, make_objective
from raysft.recipe.evaluation_sets import measured_by


def batch() -> Any:
    store = FakeStore([[5, 4], [3]], vocab_size=V)
    return on_device(collate(store.read_rows([0, 1]), 0, packing=False), CPU)


def test_its_loss_is_the_cross_entropy_of_plain_logits(caplog: Any) -> None:
    model, objective = make_model(LLAMA), make_objective(make_recipe())
    given = batch()
    logits = model(input_ids=given.input_ids, position_ids=given.position_ids).logits
    each = nn.functional.cross_entropy(
        logits.flatten(0, 1), given.labels.flatten(), reduction="none", ignore_index=-100
    )
    expected = float((each * given.weights.flatten()).sum())
    with caplog.at_level(logging.WARNING):
        plain = ObjectiveModule(model, objective)
        assert "computed twice" in caplog.text
        caplog.clear()
        install_loss_head(model)
        fused = ObjectiveModule(model, objective)
        assert not caplog.text
    for module in (plain, fused):
        found = module(*given.flat(objective.columns))
        assert float(found.sums["nll"]) == pytest.approx(expected, rel=1e-5)


def test_weights_of_the_model_are_those_of_the_module() -> None:
    model = make_model(LLAMA)
    module = ObjectiveModule(model, make_objective(make_recipe()))
    assert {f"model.{name}" for name, _ in model.named_parameters()} == {
        name for name, _ in module.named_parameters()
    }


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_each_kind_makes_the_objective_that_its_section_describes(kind: str) -> None:
    recipe = make_recipe(objective={"kind": kind})
    section, objective = recipe.objective, make_objective(recipe)
    assert objective.measures == set(measured_by(section)) - {"loss"}
