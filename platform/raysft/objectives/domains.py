"""Domain-adversarial training (DANN: Ganin et al. 2016, arXiv:1505.07818): states from which no domain can be told.

A second head is to tell each sample's domain from the state that the first head reads, and learns it: cross-entropy,
the mean over all samples of the step, with labels or without. What goes back to the model through that state is the
gradient times -lambda: the model learns to keep the domain out of it. lambda rises over the run from 0 to `reversal`,
reversal x (2 / (1 + exp(-10 p)) - 1) where a share p of its steps is done (section 5.2.2 there).

Shapes: S samples, D hidden size, K domains.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raysft.model.fast.autograd import applied
from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.sections.head_objectives import DomainsSection

DOMAIN, RIGHT = "domain", "domain_accuracy"
"""The term, and the metric that is the share of samples whose domain the second head tells."""
_LAMBDA = "reversal"
_STEEPNESS = 10.0


def without_domains(plain: Objective, section: DomainsSection | None) -> Objective:
    """The objective, that keeps domains out of what its head reads, if its section names any."""
    if section is None:
        return plain
    domains, field = section, section.classes.field

    def loss(view: View, batch: DeviceBatch) -> Loss:
        own, known = plain.loss(view, batch), batch.fields[field.name][batch.atom_of].long()  # [S]
        assert view.auxiliary is not None, "domains are told by a second head"
        factors = batch.fields[_LAMBDA][batch.atom_of]  # [S]
        scores = view.auxiliary(_reversed(view.pooled(), factors)).float()  # [S, K]
        costs = cross_entropy(scores, known, reduction="none")
        sums = {**own.sums, DOMAIN: view.total(costs, "segment")}
        return own._replace(
            sums=sums, metrics={**own.metrics, RIGHT: view.mean(scores.argmax(-1) == known, "segment")}
        )

    return replace(
        plain,
        terms=(*plain.terms, Term(DOMAIN, "segment")),
        loss=loss,
        columns=(*plain.columns, field),
        metrics=(*plain.metrics, RIGHT),
        scheduled={**plain.scheduled, _LAMBDA: lambda done: strength(done, domains.reversal)},
    )


def strength(done: float, most: float) -> float:
    """lambda where this share of the run is done."""
    return most * (2 / (1 + math.exp(-_STEEPNESS * done)) - 1)


class _Reversal(torch.autograd.Function):
    """The same states; gradients times minus a factor for each sample."""

    @staticmethod
    def forward(context: Any, states: Tensor, factors: Tensor) -> Tensor:
        context.save_for_backward(factors)
        return states.view_as(states)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (factors,) = context.saved_tensors
        return -factors[:, None].to(gradients[0].dtype) * gradients[0], None


def _reversed(states: Tensor, factors: Tensor) -> Tensor:
    """states [S, D], factors [S]."""
    found: Tensor = applied(_Reversal, states, factors)
    return found
