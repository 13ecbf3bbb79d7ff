"""KTO against the paper's formula (arXiv:2402.01306, equations 7 and 8), worked out in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import make_recipe
from objective_rows import CPU, D, V, row

from raysft.data.feed.collate import collate
from raysft.model.fast.log_probs import LogitShape
from raysft.model.fast.loss import OutputHead
from raysft.model.fast.loss_head import LossHead
from raysft.objectives.batch import on_device
from raysft.objectives.module import make_objective
from raysft.objectives.view import View

LENGTHS, ATOMS = [5, 3, 4, 6, 7], [0, 0, 1, 2, 2]  # the second answer stands alone
WANTED = np.array([1.0, 0.0, 0.0])
B, D_WEIGHT, U_WEIGHT = 0.7, 1.5, 0.8


@pytest.mark.parametrize("drift", [0.0, 0.4, -3.0])
def test_what_answers_cost(drift: float) -> None:
    section = {"kind": "kto", "beta": B, "wanted_weight": D_WEIGHT, "unwanted_weight": U_WEIGHT}
    objective = make_objective(make_recipe(objective=section))
    columns = tuple(field for field in objective.columns if field.per == "segment")
    given = row(LENGTHS, columns, 1)
    given.segment_fields["atom"] = np.array(ATOMS, np.int32)
    batch = collate([replace(given, atom_fields={"wanted": WANTED})], 0, packing=True, fields=objective.columns)
    torch.manual_seed(0)
    module, hidden = LossHead(D, V, bias=False), torch.randn(1, sum(LENGTHS), D)
    here = on_device(batch, CPU, {"drift": drift})
    with torch.no_grad():
        found = objective.loss(View(hidden, OutputHead(module, LogitShape()), here), here)

    logits = (hidden[0].double() @ module.weight.detach().double().T).numpy()
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    gains = -batch.fields["reference_log_prob"].astype(float)
    for t in np.flatnonzero(batch.labels[0] >= 0):
        gains[batch.segment_of[0, t]] += log_probs[t, batch.labels[0, t]]
    own, others = gains[[0, 2, 3]], gains[[1, 4]]
    above = B * (own - max(drift, 0.0)) * np.where(WANTED, 1, -1)
    costs = np.where(WANTED, D_WEIGHT, U_WEIGHT) * (1 - 1 / (1 + np.exp(-above)))
    assert float(found.sums["kto"]) == pytest.approx(float(costs.sum()), rel=1e-5)
    told = {name: [float(number) for number in pair] for name, pair in found.metrics.items()}
    assert told["drift"] == pytest.approx([float(others.sum()), 2], rel=1e-5)
    assert told["wanted_gain"] == pytest.approx([float(own[0]), 1], rel=1e-5)
    assert told["unwanted_gain"] == pytest.approx([float(own[1:].sum()), 2], rel=1e-5)
    assert told["accuracy"] == [float((above > 0).sum()), 3]
    assert told["margin"] == pytest.approx([float(above.sum()), 3], rel=1e-5)
