"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), on stored reference log-probabilities.

A pair costs -log sigmoid(beta * (gain of the preferred answer - gain of the rejected one)), or what `loss` says
instead, where a gain is log p - log p of the untrained model, summed over the answer's tokens. What the untrained
model says is a column of the data, computed before training.
"""

from __future__ import annotations

from torch import Tensor

from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Objective
from raysft.objectives.pairs import Answers, gap, margin_cost, pair_objective
from raysft.objectives.view import View
from raysft.recipe.columns import REFERENCE_LOG_PROB
from raysft.recipe.sections.objective import DpoObjective, ObjectiveSection


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, DpoObjective)
    dpo = section

    def compare(view: View, batch: DeviceBatch, answers: Answers) -> tuple[Tensor, Tensor]:
        gains = answers.log_probs - batch.fields[REFERENCE_LOG_PROB.name]  # [S]
        gaps = gap(view, answers, gains / answers.num_tokens if dpo.loss == "ipo" else gains)
        return margin_cost(dpo, dpo.beta, gaps), dpo.beta * gaps

    return pair_objective("dpo", dpo, 1.0, compare, (REFERENCE_LOG_PROB,))
