"""Domain-adversarial training against gradients turned by hand, and the second head that it needs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import LLAMA, make_recipe
from families import make_model
from objective_rows import CPU, D, row
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raysft.data.feed.collate import collate
from raysft.data.store.packed_rows import Row
from raysft.model.fast.log_probs import LogitShape
from raysft.model.fast.loss import OutputHead
from raysft.model.heads import auxiliary_head
from raysft.objectives.batch import on_device
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.objectives.view import View
from raysft.recipe.objective_traits import auxiliary_parameters

LABELS, DOMAINS = np.array([2, -1, 1, -1, 0, 2]), np.array([0, 1, 0, 1, 1, 0])
SECTION = {"kind": "classify", "labels": ["red", "green", "blue"], "domains": {"names": ["a", "b"], "reversal": 0.6}}


def rows() -> list[Row]:
    """Six texts in two rows, two of them without a label."""
    found = []
    for lengths, own in (([5, 3, 4, 6], slice(0, 4)), ([2, 7], slice(4, 6))):
        one = row(lengths, (), len(lengths))
        alone = {**one.segment_fields, "atom": np.arange(len(lengths), dtype=np.int32)}
        columns = {"label": LABELS[own].astype(np.float32), "domain": DOMAINS[own].astype(np.float32)}
        found.append(replace(one, segment_fields=alone, atom_fields=columns))
    return found


def gradients(value: Tensor, of: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, of, retain_graph=True, allow_unused=True))


@pytest.mark.parametrize("done", [0.0, 0.3])
@pytest.mark.parametrize("packing", [True, False])
def test_the_model_learns_against_the_second_head_which_learns(packing: bool, done: float) -> None:
    objective = make_objective(make_recipe(objective=SECTION))
    numbers = {name: at(done) for name, at in objective.scheduled.items()}
    batch = on_device(collate(rows(), 0, packing=packing, fields=objective.columns), CPU, numbers)
    torch.manual_seed(0)
    first, second = nn.Linear(D, 3, bias=False), nn.Linear(D, 2)
    hidden = torch.randn(*batch.input_ids.shape, D, requires_grad=True)
    view = View(hidden, OutputHead(nn.Identity(), LogitShape()), batch, scorer=first, auxiliary=second)
    found = objective.loss(view, batch)
    states = torch.stack([hidden[tuple((batch.segment_of == number).nonzero()[-1])] for number in range(6)])
    known = torch.tensor(LABELS >= 0)
    labels = cross_entropy(first(states)[known], torch.tensor(LABELS)[known], reduction="sum")
    domains = cross_entropy(second(states), torch.tensor(DOMAINS), reduction="sum")
    torch.testing.assert_close(found.sums["classify"], labels)
    torch.testing.assert_close(found.sums["domain"], domains)
    right = (second(states).argmax(-1) == torch.tensor(DOMAINS)).sum().item()
    assert [float(x) for x in found.metrics["domain_accuracy"]] == [right, 6]
    assert float(found.metrics["accuracy"][1]) == 4
    wanted = [hidden, first.weight, second.weight]
    ours = gradients(found.sums["classify"] + found.sums["domain"], wanted)
    by_label, by_domain = gradients(labels, [hidden, first.weight])[0], gradients(domains, wanted)
    strength = 0.6 * (2 / (1 + math.exp(-10 * done)) - 1)
    torch.testing.assert_close(ours[0], by_label - strength * by_domain[0])
    torch.testing.assert_close(ours[1], gradients(labels, [first.weight])[0])
    torch.testing.assert_close(ours[2], by_domain[2])


def test_labels_are_divided_by_those_that_are_known() -> None:
    objective = make_objective(make_recipe(objective=SECTION))
    assert objective.units(rows()) == {"classify": 4, "domain": 6}
    assert objective.units([]) == {"classify": 0, "domain": 0}
    several = make_objective(make_recipe(objective={**SECTION, "multi_label": True}))
    known = np.array([[1, 0, 0], [-1, -1, -1], [0, 0, 0], [1, 1, 0]], np.float32)
    first = rows()[0]
    told = replace(first, atom_fields={**first.atom_fields, "label": known})
    assert several.units([told]) == {"classify": 3, "domain": 4}


def test_the_schedule_is_the_papers() -> None:
    (at,) = make_objective(make_recipe(objective=SECTION)).scheduled.values()
    assert at(0.0) == 0
    assert at(0.5) == pytest.approx(0.6 * (1 - math.exp(-5)) / (1 + math.exp(-5)))
    assert 0.599 < at(1.0) < 0.6
    module = ObjectiveModule(make_model(LLAMA), make_objective(make_recipe()))
    assert module.done(3) == 0
    module.total_steps = 4
    assert module.done(3) == 0.75


def test_an_empty_micro_batch_has_gradients_of_zero() -> None:
    objective = make_objective(make_recipe(objective=SECTION))
    numbers = dict.fromkeys(objective.scheduled, 0.5)
    batch = on_device(collate([], 0, packing=True, fields=objective.columns), CPU, numbers)
    first, second = nn.Linear(D, 3), nn.Linear(D, 2)
    hidden = torch.randn(*batch.input_ids.shape, D, requires_grad=True)
    view = View(hidden, OutputHead(nn.Identity(), LogitShape()), batch, scorer=first, auxiliary=second)
    found = objective.loss(view, batch)
    (found.sums["classify"] + found.sums["domain"]).backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in (hidden, first.weight, second.weight) if p.grad is not None)
    assert second.weight.grad is not None


@pytest.mark.parametrize("hidden_size", [5, 0])
def test_the_second_head_is_alike_on_every_rank_and_counted(hidden_size: int) -> None:
    model, section = make_model(LLAMA), {**SECTION, "domains": {"names": ["a", "b"], "hidden_size": hidden_size}}
    heads = []
    for noise, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(noise)
        heads.append(auxiliary_head(model, make_recipe(objective=section, seed=seed)))
    same, again, other = (torch.cat([p.flatten() for p in head.parameters()]) for head in heads if head is not None)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)
    width = model.config.hidden_size
    assert len(same) == auxiliary_parameters(make_recipe(objective=section), width)
    assert len(same) == ((width + 1) * 5 + 6 * 2 if hidden_size else (width + 1) * 2)


def test_without_domains_there_is_no_second_head() -> None:
    plain: dict[str, Any] = {"kind": "classify", "labels": ["red", "green"]}
    assert auxiliary_head(make_model(LLAMA), make_recipe(objective=plain)) is None
