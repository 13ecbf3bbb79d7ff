"""A guard against forgetting: the divergence from the untrained model's distribution of every next token.

Per token of the step, trained or not, over that model's likeliest tokens and the mass of all others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.columns import reference_top_k
from raysft.recipe.sections.objective import TokenObjective

KL = "kl"
"""The term that is KL(untrained model || model), in nats."""


def guarded(plain: Objective, section: TokenObjective) -> Objective:
    """The objective with the guard's term, if its section gives that a weight."""
    if not section.kl_weight:
        return plain

    def loss(view: View, batch: DeviceBatch) -> Loss:
        own = plain.loss(view, batch)
        ids, reference = batch.fields["reference_ids"], batch.fields["reference_log_probs"]
        found = view.choice_log_probs(ids.long(), batch.predicts)  # [N, K]
        divergence = kl_divergence(reference[batch.predicts], found)
        return Loss({**own.sums, KL: view.total_at(divergence, batch.predicts)}, own.metrics)

    return Objective(
        terms=(*plain.terms, Term(KL, "token", section.kl_weight)),
        loss=loss,
        columns=(*plain.columns, *reference_top_k(section.kl_top_k)),
        metrics=plain.metrics,
    )


def kl_divergence(reference: Tensor, found: Tensor) -> Tensor:
    """KL(reference || found), [N], from the log-probabilities of K tokens, [N, K]; all others count as one."""
    kept = (reference.exp() * (reference - found)).sum(-1)
    others, ours = (_rest(log_probs) for log_probs in (reference, found))
    return kept + others * (others.log() - ours.log())


def _rest(log_probs: Tensor) -> Tensor:
    """1 - the sum of the probabilities, [N]; never below what fp32 can tell from nothing."""
    return (1 - log_probs.exp().sum(-1)).clamp_min(torch.finfo(torch.float32).eps)
