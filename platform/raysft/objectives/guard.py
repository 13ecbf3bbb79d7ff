"""A guard against forgetting: the divergence from the untrained model's distribution of every next token.

Per token of the step, trained or not, over that model's likeliest tokens and the mass of all others.
"""

from __future__ import annotations

from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.divergence import kl_divergence
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
        every = batch.known.predicting
        found = view.choice_log_probs(ids.long(), every)  # [N, K]
        divergence = kl_divergence(every.of(reference), found)
        return Loss({**own.sums, KL: view.total_at(divergence, every)}, own.metrics)

    return Objective(
        terms=(*plain.terms, Term(KL, "token", section.kl_weight)),
        loss=loss,
        columns=(*plain.columns, *reference_top_k(section.kl_top_k)),
        metrics=plain.metrics,
    )
