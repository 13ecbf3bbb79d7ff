"""A reward model (Bradley and Terry 1952; Ouyang et al. 2022, arXiv:2203.02155): a score of a whole answer.

A pair costs -log sigmoid(score of the preferred answer - score of the rejected one - margin), where a score is what a
new head makes of the last token's hidden state. The margin is what the data says of the pair (Llama 2,
arXiv:2307.09288), 0 by default; a second term keeps scores around 0 (arXiv:2312.09244).
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.columns import MARGIN
from raysft.recipe.sections.head_objectives import RewardObjective
from raysft.recipe.sections.objective import ObjectiveSection

CENTRE = "centre"
"""The term that is the squared sum of a pair's scores."""


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, RewardObjective)
    reward = section

    def loss(view: View, batch: DeviceBatch) -> Loss:
        scores = view.scores()[:, 0]  # [S]
        gaps = view.per_atom(torch.where(batch.is_first_of_atom, scores, -scores))  # [A]
        margin = reward.margin_weight * batch.fields[MARGIN.name] if reward.margin_weight else 0.0
        sums = {"reward": view.total(-logsigmoid(gaps - margin), "atom")}
        if reward.centre_weight:
            sums[CENTRE] = view.total(view.per_atom(scores) ** 2, "atom")
        return Loss(sums, {"accuracy": view.mean(gaps > 0, "atom"), "margin": view.mean(gaps, "atom")})

    centre = (Term(CENTRE, "atom", reward.centre_weight),) if reward.centre_weight else ()
    columns = (MARGIN,) if reward.margin_weight else ()
    return Objective((Term("reward", "atom"), *centre), loss, columns, metrics=("accuracy", "margin"))
