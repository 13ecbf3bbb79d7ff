"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306), on stored reference log-probabilities.

An answer costs weight x (1 - sigmoid(beta * (gain - z))) where it is wanted, and where it is not
weight x (1 - sigmoid(beta * (z - gain))). A gain is log p - log p of the untrained model, summed over the answer's
tokens. z, without a gradient, is how far the model has drifted from the untrained one: the mean gain of answers of
other prompts over the whole global step, 0 at least. An atom is an answer and, if it fits beside it, another record's
answer to its prompt.

Shapes: S samples, A answers.
"""

from __future__ import annotations

import torch

from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.columns import REFERENCE_LOG_PROB, WANTED
from raysft.recipe.sections.objective import KtoObjective, ObjectiveSection

DRIFT = "drift"
"""The metric that is the mean gain of mismatched answers, in nats: z before it is cut off at 0."""


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, KtoObjective)
    kto = section

    def loss(view: View, batch: DeviceBatch) -> Loss:
        log_probs = view.per_segment(view.log_probs(), batch.known.trained)
        gains = log_probs - batch.fields[REFERENCE_LOG_PROB.name]  # [S]
        is_own = batch.is_first_of_atom
        own = view.per_atom(torch.where(is_own, gains, 0))  # [A]
        others = view.per_atom(torch.where(is_own, 0, gains))  # [A]
        is_wanted, has_other = batch.fields[WANTED.name] > 0, view.per_atom((~is_own).float()) > 0
        above = own - batch.fields[DRIFT].clamp_min(0)
        margins = kto.beta * torch.where(is_wanted, above, -above)
        weights = torch.where(is_wanted, kto.wanted_weight, kto.unwanted_weight)
        metrics = {
            "accuracy": view.mean(margins > 0, "atom"),
            "margin": view.mean(margins, "atom"),
            "wanted_gain": view.mean(own, "atom", is_wanted),
            "unwanted_gain": view.mean(own, "atom", ~is_wanted),
            DRIFT: view.mean(others, "atom", has_other),
        }
        return Loss({"kto": view.total(weights * torch.sigmoid(-margins), "atom")}, metrics)

    return Objective(
        terms=(Term("kto", "atom"),),
        loss=loss,
        columns=(WANTED, REFERENCE_LOG_PROB),
        metrics=("accuracy", "margin", "wanted_gain", "unwanted_gain", DRIFT),
        step_means=(DRIFT,),
    )
