"""Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691): no untrained model is asked.

A pair costs -log sigmoid(log odds of the preferred answer - log odds of the rejected one), where the odds are
p / (1 - p) of p = exp(log p a token); beta weighs it. The cross-entropy of the preferred answers is the first term of
the paper's loss; here it counts the answers' tokens only, not those of the prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Objective
from raysft.objectives.pairs import Answers, gap, pair_objective
from raysft.objectives.view import View
from raysft.recipe.sections.objective import ObjectiveSection, OrpoObjective


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, OrpoObjective)
    return pair_objective("orpo", section, section.beta, _compare)


def _compare(view: View, batch: DeviceBatch, answers: Answers) -> tuple[Tensor, Tensor]:
    margins = gap(view, answers, _log_odds(answers.mean_log_probs))
    return -logsigmoid(margins), margins


def _log_odds(log_p: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p < 0; where fp32 cannot tell p from 1, the largest odds that it can."""
    below_one = log_p.clamp_max(-torch.finfo(torch.float32).eps)
    return below_one - torch.log(-torch.expm1(below_one))
