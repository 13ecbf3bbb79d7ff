"""Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734): log-probabilities a token, no other model.

A pair costs -log sigmoid(beta * (log p a token of the preferred answer - of the rejected one) - gamma).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Objective
from raysft.objectives.pairs import Answers, gap, pair_objective
from raysft.objectives.view import View
from raysft.recipe.sections.objective import ObjectiveSection, SimpoObjective


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, SimpoObjective)
    simpo = section

    def compare(view: View, batch: DeviceBatch, answers: Answers) -> tuple[Tensor, Tensor]:
        margins = simpo.beta * gap(view, answers, answers.mean_log_probs)
        return -logsigmoid(margins - simpo.gamma), margins

    return pair_objective("simpo", simpo, 1.0, compare)
