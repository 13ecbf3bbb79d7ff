"""Objectives on pairs against their papers' formulas, worked out in numpy from whole log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fakes import make_recipe
from objective_rows import CPU, D, V, row

from raysft.data.feed.collate import collate
from raysft.model.fast.log_probs import LogitShape
from raysft.model.fast.loss import OutputHead
from raysft.model.fast.loss_head import LossHead
from raysft.objectives.base import Term
from raysft.objectives.batch import on_device
from raysft.objectives.module import make_objective
from raysft.objectives.orpo import _log_odds
from raysft.objectives.view import View
from raysft.recipe.columns import REFERENCE_LOG_PROB

LENGTHS = [5, 3, 4, 6]  # two pairs, the preferred answer first
B, E, G = 0.7, 0.2, 0.4


def softplus(x: np.ndarray) -> np.ndarray:
    """-log sigmoid(-x)."""
    return np.log1p(np.exp(x))


def odds(log_p: np.ndarray) -> np.ndarray:
    return np.exp(log_p) / (1 - np.exp(log_p))


Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""([A, 2] log p, [A, 2] tokens, [A, 2] log p of the untrained model) -> what each pair costs."""

FORMULAS: dict[str, tuple[dict[str, Any], Formula]] = {
    "dpo": ({"kind": "dpo"}, lambda p, n, r: softplus(-B * ((p - r)[:, 0] - (p - r)[:, 1]))),
    "hinge": (
        {"kind": "dpo", "loss": "hinge"},
        lambda p, n, r: np.maximum(0, 1 - B * ((p - r)[:, 0] - (p - r)[:, 1])),
    ),
    "ipo": (
        {"kind": "dpo", "loss": "ipo"},
        lambda p, n, r: (((p - r) / n)[:, 0] - ((p - r) / n)[:, 1] - 1 / (2 * B)) ** 2,
    ),
    "smooth": (
        {"kind": "cpo", "label_smoothing": E},
        lambda p, n, r: (1 - E) * softplus(-B * (p[:, 0] - p[:, 1])) + E * softplus(B * (p[:, 0] - p[:, 1])),
    ),
    "robust": (
        {"kind": "cpo", "loss": "robust", "label_smoothing": E},
        lambda p, n, r: (
            ((1 - E) * softplus(-B * (p[:, 0] - p[:, 1])) - E * softplus(B * (p[:, 0] - p[:, 1]))) / (1 - 2 * E)
        ),
    ),
    "simpo": ({"kind": "simpo", "gamma": G}, lambda p, n, r: softplus(G - B * ((p / n)[:, 0] - (p / n)[:, 1]))),
    "orpo": ({"kind": "orpo"}, lambda p, n, r: softplus(-np.log(odds(p / n)[:, 0] / odds(p / n)[:, 1]))),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("sft_weight", [0.0, 0.3])
def test_what_pairs_cost(name: str, sft_weight: float) -> None:
    fields, formula = FORMULAS[name]
    objective = make_objective(make_recipe(objective={"beta": B, "sft_weight": sft_weight, **fields}))
    batch = collate([row(LENGTHS, (REFERENCE_LOG_PROB,), 1)], 0, packing=True, fields=(REFERENCE_LOG_PROB,))
    torch.manual_seed(0)
    module, hidden = LossHead(D, V, bias=False), torch.randn(1, sum(LENGTHS), D)
    given = on_device(batch, CPU)
    with torch.no_grad():
        found = objective.loss(View(hidden, OutputHead(module, LogitShape()), given), given)

    logits = (hidden[0].double() @ module.weight.detach().double().T).numpy()
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    answers, start = [], 0
    for length in LENGTHS:
        places = [t for t in range(start, start + length) if batch.labels[0, t] >= 0]
        answers.append((sum(log_probs[t, batch.labels[0, t]] for t in places), len(places)))
        start += length
    p, n = (np.array(column, float).reshape(2, 2) for column in zip(*answers, strict=True))
    costs = formula(p, n, batch.fields["reference_log_prob"].reshape(2, 2))
    assert float(found.sums[fields["kind"]]) == pytest.approx(float(costs.sum()), rel=1e-5)
    main = Term(fields["kind"], "atom", B if name == "orpo" else 1.0)
    if sft_weight:
        assert objective.terms == (main, Term("preferred_nll", "preferred_token", 0.3))
        assert float(found.sums["preferred_nll"]) == pytest.approx(-float(p[:, 0].sum()), rel=1e-5)
    else:
        assert objective.terms == (main,)
    assert float(found.metrics["margin"][1]) == 2
    assert 0 <= float(found.metrics["accuracy"][0]) <= 2


def test_the_odds_of_a_certain_answer_are_finite() -> None:
    log_p = torch.tensor([0.0, -1e-9, -0.5, -80.0], requires_grad=True)
    found = _log_odds(log_p)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(log_p.grad).all()
    assert float(found[2]) == pytest.approx(float(np.log(odds(np.array(-0.5)))), rel=1e-6)
