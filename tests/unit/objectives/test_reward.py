"""Reward models against Bradley and Terry's formula, worked out in numpy from the hidden states of last tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import make_recipe
from objective_rows import CPU, D, V, row
from torch import nn

from raysft.data.feed.collate import collate
from raysft.model.fast.log_probs import LogitShape
from raysft.model.fast.loss import OutputHead
from raysft.objectives.batch import in_one_row, on_device
from raysft.objectives.module import make_objective
from raysft.objectives.view import View

LENGTHS = [[5, 3, 4, 6], [2, 7]]
MARGINS = [np.array([1.0, 2.5], np.float32), np.array([0.5], np.float32)]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("section", [{}, {"centre_weight": 0.1}, {"margin_weight": 0.4, "centre_weight": 0.1}])
def test_what_pairs_cost(section: dict[str, Any], packing: bool) -> None:
    objective = make_objective(make_recipe(objective={"kind": "reward", **section}))
    rows = [
        replace(row(lengths, (), seed), atom_fields={"score_margin": margins})
        for seed, (lengths, margins) in enumerate(zip(LENGTHS, MARGINS, strict=True))
    ]
    batch = on_device(collate(rows, 0, packing=packing, fields=objective.columns), CPU)
    torch.manual_seed(0)
    scorer, hidden = nn.Linear(D, 1, bias=False), torch.randn(*batch.input_ids.shape, D)
    head = OutputHead(nn.Linear(D, V), LogitShape())
    found = objective.loss(View(hidden, head, batch, scorer=scorer), batch)

    lasts = []
    for number in range(6):
        places = (batch.segment_of == number).nonzero()
        lasts.append(hidden[tuple(places[-1])].double().numpy())
    scores = np.array(lasts) @ scorer.weight.detach().double().numpy()[0]
    gaps = scores[::2] - scores[1::2]
    margins = section.get("margin_weight", 0) * np.concatenate(MARGINS)
    assert float(found.sums["reward"]) == pytest.approx(np.log1p(np.exp(margins - gaps)).sum(), rel=1e-5)
    if section.get("centre_weight"):
        assert float(found.sums["centre"]) == pytest.approx(((scores[::2] + scores[1::2]) ** 2).sum(), rel=1e-5)
    told = {name: [float(number) for number in pair] for name, pair in found.metrics.items()}
    assert told["accuracy"] == [float((gaps > 0).sum()), 3]
    assert told["margin"] == pytest.approx([gaps.sum(), 3], rel=1e-5)


def test_an_empty_micro_batch_adds_nothing_and_passes_gradients() -> None:
    objective = make_objective(make_recipe(objective={"kind": "reward"}))
    empty = on_device(collate([], 0, packing=True), CPU)
    full = on_device(collate([row([2, 3], (), 1)], 0, packing=True), CPU)
    joined, extents = in_one_row([full, empty], ())
    scorer = nn.Linear(D, 1, bias=False)
    for batch, trials in ((empty, None), (joined, extents)):
        hidden = torch.randn(*batch.input_ids.shape, D, requires_grad=True)
        found = objective.loss(
            View(hidden, OutputHead(scorer, LogitShape()), batch, scorer=scorer, trials=trials), batch
        )
        sums = found.sums["reward"].flatten()
        assert float(sums[-1]) == 0
        sums.sum().backward()
        assert hidden.grad is not None
