"""Direct preference optimisation against its formula, worked out in numpy from whole log-probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fakes import make_recipe
from objective_rows import CPU, D, V, row
from torch import Tensor

from raysft.data.feed.collate import collate
from raysft.model.fast.log_probs import LogitShape
from raysft.model.fast.loss import OutputHead
from raysft.model.fast.loss_head import LossHead
from raysft.objectives.base import Term
from raysft.objectives.batch import on_device
from raysft.objectives.module import make_objective
from raysft.objectives.view import View
from raysft.recipe.columns import REFERENCE_LOG_PROB

LENGTHS = [5, 3, 4, 6]  # two pairs, the preferred answer first


@pytest.fixture
def given() -> tuple[Any, Tensor, OutputHead]:
    """(batch on the host, hidden states [1, T, D], head)."""
    batch = collate([row(LENGTHS, (REFERENCE_LOG_PROB,), 1)], 0, packing=True, fields=(REFERENCE_LOG_PROB,))
    draw = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    module = LossHead(D, V, bias=False)
    return batch, torch.randn(1, sum(LENGTHS), D, generator=draw), OutputHead(module, LogitShape())


def gains(batch: Any, hidden: Tensor, head: OutputHead) -> np.ndarray:
    """log p - log p of the untrained model of each answer, [S]."""
    logits = (hidden[0].double() @ head.module.weight.detach().double().T).numpy()
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found, start = [], 0
    for length in LENGTHS:
        places = [t for t in range(start, start + length) if batch.labels[0, t] >= 0]
        found.append(sum(log_probs[t, batch.labels[0, t]] for t in places))
        start += length
    return np.array(found) - batch.fields["reference_log_prob"].reshape(-1)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_loss_of_pairs(given: tuple[Any, Tensor, OutputHead], beta: float) -> None:
    batch, hidden, head = given
    objective = make_objective(make_recipe(objective={"kind": "dpo", "beta": beta}))
    found = objective.loss(View(hidden, head, on_device(batch, CPU)), on_device(batch, CPU))
    won = gains(batch, hidden, head)
    margins = beta * (won[0::2] - won[1::2])
    assert float(found.sums["dpo"]) == pytest.approx(float(np.log1p(np.exp(-margins)).sum()), rel=1e-5)
    assert [float(x) for x in found.metrics["margin"]] == pytest.approx([margins.sum(), 2], rel=1e-5)
    assert [float(x) for x in found.metrics["accuracy"]] == [float((margins > 0).sum()), 2.0]
    assert objective.terms == (Term("dpo", "atom"),)


def test_the_gradient_prefers_the_first_answer(given: tuple[Any, Tensor, OutputHead]) -> None:
    """A step against the gradient raises the preferred answer's gain over the rejected one's."""
    batch, hidden, head = given
    objective = make_objective(make_recipe(objective="dpo"))
    hidden.requires_grad_()
    loss = objective.loss(View(hidden, head, on_device(batch, CPU)), on_device(batch, CPU))
    (gradient,) = torch.autograd.grad(loss.sums["dpo"], hidden)
    before, after = (gains(batch, h.detach(), head) for h in (hidden, hidden - 0.1 * gradient))
    assert ((after[0::2] - after[1::2]) > (before[0::2] - before[1::2])).all()


def test_equal_models_lose_log_2(given: tuple[Any, Tensor, OutputHead]) -> None:
    batch, hidden, head = given
    untrained = gains(batch, hidden, head) + batch.fields["reference_log_prob"].reshape(-1)
    batch.fields["reference_log_prob"][:] = untrained.reshape(batch.fields["reference_log_prob"].shape)
    objective = make_objective(make_recipe(objective="dpo"))
    loss = objective.loss(View(hidden, head, on_device(batch, CPU)), on_device(batch, CPU))
    assert float(loss.sums["dpo"]) == pytest.approx(2 * np.log(2), rel=1e-5)
