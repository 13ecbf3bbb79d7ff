"""Distillation against divergences worked out in numpy over K tokens and one for all others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import make_recipe
from objective_rows import CPU, D, K, V, row

from raysft.data.feed.collate import collate
from raysft.model.fast.log_probs import LogitShape
from raysft.model.fast.loss import OutputHead
from raysft.model.fast.loss_head import LossHead
from raysft.objectives.base import Term
from raysft.objectives.batch import on_device
from raysft.objectives.module import make_objective
from raysft.objectives.view import View

LENGTHS = [5, 3, 4]
T = 1.6


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_divergence_of_target_tokens(divergence: str, share: float) -> None:
    fields = {"kind": "distill", "teachers": ["t"], "teacher_top_k": K, "temperature": T}
    objective = make_objective(make_recipe(objective={**fields, "divergence": divergence, "share": share}))
    batch = collate([row(LENGTHS, objective.columns, 1)], 0, packing=True, fields=objective.columns)
    torch.manual_seed(0)
    module, hidden = LossHead(D, V, bias=False), torch.randn(1, sum(LENGTHS), D)
    given = on_device(batch, CPU)
    with torch.no_grad():
        found = objective.loss(View(hidden, OutputHead(module, LogitShape()), given), given)

    logits = (hidden[0].double() @ module.weight.detach().double().T).numpy()
    total, nll, count = 0.0, 0.0, 0
    for t, label in enumerate(batch.labels[0]):
        if label < 0:
            continue
        warm = np.exp(logits[t] / T) / np.exp(logits[t] / T).sum()
        q = warm[batch.fields["teacher_ids"][0, t]]
        p = np.exp(batch.fields["teacher_log_probs"][0, t].astype(float))
        p, q = np.append(p, 1 - p.sum()), np.append(q, 1 - q.sum())
        m = (p + q) / 2
        total += {"forward": kl(p, q), "reverse": kl(q, p), "js": (kl(p, m) + kl(q, m)) / 2}[divergence]
        nll += np.log(np.exp(logits[t]).sum()) - logits[t, label]
        count += 1
    assert count > 3
    assert float(found.sums["distill"]) == pytest.approx(total, rel=1e-4)
    term = Term("distill", "target_token", share * T**2)
    if share == 1:
        assert objective.terms == (term,)
        assert [float(x) for x in found.metrics["nll"]] == pytest.approx([nll, count], rel=1e-5)
    else:
        assert objective.terms == (term, Term("nll", "target_token", 1 - share))
        assert float(found.sums["nll"]) == pytest.approx(nll, rel=1e-5)
