"""Classification against torch's own losses and the paper's focal loss, of scores of last tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import make_recipe
from objective_rows import CPU, D, row
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from raysft.data.feed.collate import collate
from raysft.model.fast.log_probs import LogitShape
from raysft.model.fast.loss import OutputHead
from raysft.objectives.batch import DeviceBatch, on_device
from raysft.objectives.module import make_objective
from raysft.objectives.objective import Loss
from raysft.objectives.reduce import Sums, added
from raysft.objectives.view import View

LABELS = ("red", "green", "blue")
KNOWN = np.array([2, 0, 1, 1, 0, 2])
SEVERAL = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 1]])


def found_of(section: dict[str, Any], packing: bool, labels: np.ndarray) -> tuple[Loss, Tensor]:
    """(the loss, [S, K] scores) of six texts in two rows."""
    objective = make_objective(make_recipe(objective={"kind": "classify", "labels": LABELS, **section}))
    rows = []
    for lengths, own in (([5, 3, 4, 6], slice(0, 4)), ([2, 7], slice(4, 6))):
        found = row(lengths, (), len(lengths))
        alone = {**found.segment_fields, "atom": np.arange(len(lengths), dtype=np.int32)}
        rows.append(replace(found, segment_fields=alone, atom_fields={"label": labels[own].astype(np.float32)}))
    batch: DeviceBatch = on_device(collate(rows, 0, packing=packing, fields=objective.columns), CPU)
    torch.manual_seed(0)
    scorer, hidden = nn.Linear(D, len(LABELS), bias=False), torch.randn(*batch.input_ids.shape, D)
    view = View(hidden, OutputHead(nn.Identity(), LogitShape()), batch, scorer=scorer)
    lasts = [hidden[tuple((batch.segment_of == number).nonzero()[-1])] for number in range(6)]
    return objective.loss(view, batch), scorer(torch.stack(lasts)).detach()


@pytest.mark.parametrize("packing", [True, False])
def test_one_label(packing: bool) -> None:
    found, scores = found_of({"class_weights": {"green": 3.0}}, packing, KNOWN)
    known = torch.tensor(KNOWN)
    expected = cross_entropy(scores, known, torch.tensor([1.0, 3.0, 1.0]), reduction="sum")
    assert float(found.sums["classify"]) == pytest.approx(float(expected), rel=1e-5)
    assert [float(x) for x in found.metrics["accuracy"]] == [float((scores.argmax(-1) == known).sum()), 6]


def test_focal_costs_are_the_papers() -> None:
    found, scores = found_of({"focal_gamma": 2.0}, True, KNOWN)
    p = np.exp(scores.double().numpy())
    p = (p / p.sum(-1, keepdims=True))[np.arange(6), KNOWN]
    assert float(found.sums["classify"]) == pytest.approx(float((-((1 - p) ** 2) * np.log(p)).sum()), rel=1e-5)


def test_several_labels_are_a_question_each() -> None:
    section = {"multi_label": True, "class_weights": {"red": 2.0}}
    found, scores = found_of(section, True, SEVERAL)
    known = torch.tensor(SEVERAL, dtype=torch.float32)
    weight = torch.tensor([2.0, 1.0, 1.0])
    expected = binary_cross_entropy_with_logits(scores, known, pos_weight=weight, reduction="sum") / 3
    assert float(found.sums["classify"]) == pytest.approx(float(expected), rel=1e-5)
    right = ((scores > 0) == (known > 0)).all(-1)
    assert float(found.metrics["accuracy"][0]) == float(right.sum())


def test_what_is_sure_and_right_costs_nothing_and_has_a_gradient() -> None:
    objective = make_objective(
        make_recipe(objective={"kind": "classify", "labels": LABELS[:2], "focal_gamma": 0.5}, data={"packing": False})
    )
    batch = on_device(
        collate([replace(row([3], (), 1), atom_fields={"label": np.zeros(1, "f4")})], 0, packing=False), CPU
    )
    given = torch.tensor([[200.0, -200.0]], requires_grad=True)
    batch = batch._replace(fields={"label": torch.zeros(1)})
    view = View(given, OutputHead(nn.Identity(), LogitShape()), batch, given=given)
    cost = objective.loss(view, batch).sums["classify"]
    cost.backward()
    assert float(cost) == 0
    assert given.grad is not None
    assert bool(torch.isfinite(given.grad).all())


@pytest.mark.parametrize(("several", "known"), [(False, KNOWN), (True, SEVERAL)])
def test_what_is_counted_gives_sklearns_f1_and_the_papers_errors(several: bool, known: np.ndarray) -> None:
    """In two parts, whose sums are added up; ECE by a loop over Guo's bins, (0, 1/15] and on."""
    section = {"multi_label": several}
    found, scores = found_of(section, True, known)
    objective = make_objective(make_recipe(objective={"kind": "classify", "labels": LABELS, **section}))
    assert found.counts is not None
    assert objective.counted is not None
    assert len(found.counts) == objective.num_counts
    halves = [(found.counts / 4).tolist(), (found.counts * 3 / 4).tolist()]
    parts = [Sums({"classify": 1.0}, {"classify": 1.0}, counts=tuple(half)) for half in halves]
    told = objective.counted.tell(added(parts, objective.terms).counts)
    logits = scores.double().numpy()
    if several:
        p, has, said = 1 / (1 + np.exp(-logits)), known, logits > 0
        statements = list(zip(p.ravel(), has.ravel(), strict=True))
        brier = float(((p - has) ** 2).mean())
    else:
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        has, said = np.eye(3)[known], np.eye(3)[logits.argmax(-1)]
        statements = [(row.max(), row.argmax() == label) for row, label in zip(p, known, strict=True)]
        brier = float(((p - has) ** 2).sum(-1).mean())
    gaps = 0.0
    for number in range(15):
        inside = [(p, true) for p, true in statements if number / 15 < p <= (number + 1) / 15]
        gaps += abs(sum(p - true for p, true in inside))
    expected = f1_score(has, said, average="macro", zero_division=0)
    assert told == pytest.approx({"macro_f1": expected, "ece": gaps / len(statements), "brier": brier}, abs=1e-6)
    assert objective.counted.tell([0.0] * objective.num_counts) == {}
