"""Supervised fine-tuning: minus the log-likelihood of the target tokens, per target token of the step.

On request with a guard against forgetting: the divergence from the untrained model's distribution of every next
token, per token of the step, over that model's likeliest tokens and the mass of all others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raysft.objectives.base import NLL, Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.columns import reference_top_k
from raysft.recipe.sections.objective import ObjectiveSection, SftObjective

KL = "kl"
"""The term that is KL(untrained model || model), in nats."""


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, SftObjective)
    nll = Term(NLL, "target_token")
    if not section.kl_weight:
        return Objective(terms=(nll,), loss=lambda view, batch: Loss({NLL: view.weighted_nll()}))
    return Objective(
        terms=(nll, Term(KL, "token", section.kl_weight)),
        loss=_with_divergence,
        columns=reference_top_k(section.kl_top_k),
    )


def _with_divergence(view: View, batch: DeviceBatch) -> Loss:
    ids, reference = batch.fields["reference_ids"], batch.fields["reference_log_probs"]
    found = view.choice_log_probs(ids.long(), batch.predicts)  # [N, K]
    divergence = kl_divergence(reference[batch.predicts], found)
    return Loss({NLL: view.weighted_nll(), KL: view.total_at(divergence, batch.predicts)})


def kl_divergence(reference: Tensor, found: Tensor) -> Tensor:
    """KL(reference || found), [N], from the log-probabilities of K tokens, [N, K]; all others count as one."""
    kept = (reference.exp() * (reference - found)).sum(-1)
    others, ours = (_rest(log_probs) for log_probs in (reference, found))
    return kept + others * (others.log() - ours.log())


def _rest(log_probs: Tensor) -> Tensor:
    """1 - the sum of the probabilities, [N]; never below what fp32 can tell from nothing."""
    return (1 - log_probs.exp().sum(-1)).clamp_min(torch.finfo(torch.float32).eps)
