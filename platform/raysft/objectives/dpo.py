"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), on stored reference log-probabilities.

Of each pair, which is an atom of two samples, the preferred one first: -log sigmoid(beta * (gain of the preferred
answer - gain of the rejected one)), where a gain is log p - log p of the untrained model, summed over the answer's
tokens. The mean is over pairs. What the untrained model says is a column of the data, computed before training.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import logsigmoid

from raysft.model.fast.loss import IGNORE
from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.columns import REFERENCE_LOG_PROB
from raysft.recipe.sections.objective import DpoObjective, ObjectiveSection


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, DpoObjective)
    return Objective(
        terms=(Term("dpo", "atom"),),
        loss=partial(_loss, beta=section.beta),
        columns=(REFERENCE_LOG_PROB,),
        metrics=("accuracy", "margin"),
    )


def _loss(view: View, batch: DeviceBatch, *, beta: float) -> Loss:
    trained = batch.labels != IGNORE
    gains = view.per_segment(view.log_probs(), trained) - batch.fields[REFERENCE_LOG_PROB.name]  # [S]
    sign = torch.where(batch.is_first_of_atom, 1.0, -1.0)
    margins = beta * view.per_atom(sign * gains)  # [A]
    return Loss(
        {"dpo": view.total(-logsigmoid(margins), "atom")},
        {"accuracy": view.mean(margins > 0, "atom"), "margin": view.mean(margins, "atom")},
    )
