"""Contrastive preference optimisation (Xu et al. 2024, arXiv:2401.08417): no untrained model is asked.

A pair costs -log sigmoid(beta * (log p of the preferred answer - log p of the rejected one)), or what `loss` says
instead; the cross-entropy of the preferred answers, which holds the model to them, is a term of its own.
"""

from __future__ import annotations

from torch import Tensor

from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Objective
from raysft.objectives.pairs import Answers, gap, margin_cost, pair_objective
from raysft.objectives.view import View
from raysft.recipe.sections.objective import CpoObjective, ObjectiveSection


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, CpoObjective)
    cpo = section

    def compare(view: View, batch: DeviceBatch, answers: Answers) -> tuple[Tensor, Tensor]:
        gaps = gap(view, answers, answers.mean_log_probs if cpo.loss == "ipo" else answers.log_probs)
        return margin_cost(cpo, cpo.beta, gaps), cpo.beta * gaps

    return pair_objective("cpo", cpo, 1.0, compare)
