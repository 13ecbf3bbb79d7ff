"""Distillation (Hinton et al. 2015, arXiv:1503.02531) from what teachers say of the data, before training or in it.

Where a target token is predicted, the divergence between the teachers' distribution and the model's, both at a
temperature, over the teachers' likeliest tokens and the mass of all others. Per target token of the step; the term is
weighed by temperature^2, which keeps its gradients' size, and cross-entropy by the rest of `share`.

Shapes: N trained positions, K tokens that are kept of each distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raysft.objectives.base import NLL, Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.divergence import js_divergence, kl_divergence
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.columns import teacher_top_k
from raysft.recipe.sections.objective import DistillObjective, ObjectiveSection

DISTILL = "distill"
"""The term that is the divergence, in nats."""


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, DistillObjective)
    distill, is_alone = section, section.share == 1

    def loss(view: View, batch: DeviceBatch) -> Loss:
        trained = batch.known.trained
        weights, teacher = trained.of(batch.weights), trained.of(batch.fields["teacher_log_probs"])
        ids = batch.fields["teacher_ids"].long()
        student = view.choice_log_probs(ids, trained, distill.temperature)  # [N, K]
        costs = _divergence(distill.divergence, teacher, student) * weights
        sums = {DISTILL: view.total_at(costs, trained)}
        if not is_alone:
            return Loss({**sums, NLL: view.weighted_nll()})
        with torch.no_grad():
            nll = -view.log_probs()
        return Loss(sums, {NLL: view.mean_at(nll, weights, trained)})

    term = Term(DISTILL, "target_token", distill.share * distill.temperature**2)
    nll = Term(NLL, "target_token", 1 - distill.share)
    kept = teacher_top_k(distill.teacher_top_k)
    columns, live = ((), kept) if distill.live else (kept, ())
    if is_alone:
        return Objective((term,), loss, columns, (NLL,), live=live)
    return Objective((term, nll), loss, columns, live=live)


def _divergence(kind: str, teacher: Tensor, student: Tensor) -> Tensor:
    """[N] from log-probabilities [N, K]."""
    match kind:
        case "forward":
            return kl_divergence(teacher, student)
        case "reverse":
            return kl_divergence(student, teacher)
        case _:
            return js_divergence(teacher, student)
