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


SCORES = ([[2.0, 1.0, 1.0, 0.0], [5.0, -1.0]], [[3.0, 3.0, 2.0]])


@pytest.mark.parametrize("compare", ["pairs", "list"])
def test_what_lists_cost(compare: str) -> None:
    objective = make_objective(make_recipe(objective={"kind": "reward", "compare": compare, "centre_weight": 0.1}))
    rows = []
    for seed, lists in enumerate(SCORES):
        one, atoms = row([3] * sum(map(len, lists)), (), seed), np.repeat(np.arange(len(lists)), [*map(len, lists)])
        scores = np.concatenate(lists).astype(np.float32)
        fields = {**one.segment_fields, "atom": atoms.astype(np.int32), "answer_score": scores}
        rows.append(replace(one, segment_fields=fields))
    batch = on_device(collate(rows, 0, packing=True, fields=objective.columns), CPU)
    torch.manual_seed(0)
    scorer, hidden = nn.Linear(D, 1, bias=False), torch.randn(*batch.input_ids.shape, D)
    found = objective.loss(View(hidden, OutputHead(nn.Linear(D, V), LogitShape()), batch, scorer=scorer), batch)

    lasts = [hidden[tuple((batch.segment_of == n).nonzero()[-1])].double().numpy() for n in range(9)]
    told = iter(np.array(lasts) @ scorer.weight.detach().double().numpy()[0])
    costs, right, gaps, centres = [], [], [], []
    for given in (one for lists in SCORES for one in lists):
        own = [next(told) for _ in given]
        pairs = [(i, j) for i in range(len(given)) for j in range(len(given)) if given[i] > given[j]]
        if compare == "pairs":
            costs.append(np.mean([np.log1p(np.exp(own[j] - own[i])) for i, j in pairs]))
        else:
            worse = [[j for k, j in pairs if k == i] for i in range(len(given))]
            drawn = [
                np.exp(own[i]) / (np.exp(own[i]) + sum(np.exp(own[j]) for j in js)) for i, js in enumerate(worse)
            ]
            costs.append(-np.log(drawn).sum())
        right.append(np.mean([own[i] > own[j] for i, j in pairs]))
        gaps.append(np.mean([own[i] - own[j] for i, j in pairs]))
        centres.append((2 * np.mean(own)) ** 2)
    assert float(found.sums["reward"]) == pytest.approx(sum(costs), rel=1e-5)
    assert float(found.sums["centre"]) == pytest.approx(sum(centres), rel=1e-5)
    assert [float(x) for x in found.metrics["accuracy"]] == pytest.approx([sum(right), 3], rel=1e-6)
    assert [float(x) for x in found.metrics["margin"]] == pytest.approx([sum(gaps), 3], rel=1e-5)
