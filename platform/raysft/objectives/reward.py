"""A reward model (Bradley and Terry 1952; Ouyang et al. 2022, arXiv:2203.02155): a score of a whole answer.

A pair costs -log sigmoid(score of the preferred answer - score of the rejected one - margin), where a score is what a
new head makes of the last token's hidden state. The margin is what the data says of the pair (Llama 2,
arXiv:2307.09288), 0 by default; a second term keeps scores around 0 (arXiv:2312.09244). A list of answers costs the
mean of its pairs, or minus the log-likelihood of its order (Plackett 1975; ListMLE, Xia et al. 2008), in which the
best of all is drawn by softmax of their scores, then the best of the rest: of two answers that is the same. Answers
that the data scores alike are not compared.

Shapes: S answers, A atoms (pairs, or lists).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.columns import MARGIN, SCORE
from raysft.recipe.sections.head_objectives import RewardObjective
from raysft.recipe.sections.objective import ObjectiveSection

CENTRE = "centre"
"""The term that is the squared sum of a pair's scores; of a list, of the mean of its scores, twice."""


class _Told(NamedTuple):
    """What is read of each atom, [A]."""

    costs: Tensor
    right: Tensor
    """Share of its pairs that are the right way round."""
    gaps: Tensor
    """Mean of score - score of a worse answer."""
    sums: Tensor
    """Twice the mean of its scores."""


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, RewardObjective)
    reward, is_pair = section, section.compare == "best_and_worst"

    def loss(view: View, batch: DeviceBatch) -> Loss:
        told = _of_pairs(view, batch, reward) if is_pair else _of_lists(view, batch, reward)
        sums = {"reward": view.total(told.costs, "atom")}
        if reward.centre_weight:
            sums[CENTRE] = view.total(told.sums**2, "atom")
        return Loss(sums, {"accuracy": view.mean(told.right, "atom"), "margin": view.mean(told.gaps, "atom")})

    centre = (Term(CENTRE, "atom", reward.centre_weight),) if reward.centre_weight else ()
    margin = (MARGIN,) if reward.margin_weight else ()
    columns = margin if is_pair else (SCORE,)
    return Objective((Term("reward", "atom"), *centre), loss, columns, metrics=("accuracy", "margin"))


def _of_pairs(view: View, batch: DeviceBatch, section: RewardObjective) -> _Told:
    scores = view.scores()[:, 0]  # [S]
    gaps = view.per_atom(torch.where(batch.is_first_of_atom, scores, -scores))  # [A]
    margin = section.margin_weight * batch.fields[MARGIN.name] if section.margin_weight else 0.0
    return _Told(-logsigmoid(gaps - margin), gaps > 0, gaps, view.per_atom(scores))


def _of_lists(view: View, batch: DeviceBatch, section: RewardObjective) -> _Told:
    scores, wanted = view.scores()[:, 0], batch.fields[SCORE.name]  # [S]
    beyond = wanted[:, None] - wanted  # [S, S], how much better the first one is
    is_pair = (batch.atom_of[:, None] == batch.atom_of) & (beyond > 0)
    gaps = scores[:, None] - scores  # [S, S]
    pairs = view.per_atom(is_pair.sum(1).float()).clamp_min(1)  # [A], of which a micro-batch may have none

    def mean(values: Tensor) -> Tensor:
        """[S, S] -> [A], over each one's pairs."""
        return view.per_atom(torch.where(is_pair, values, 0).sum(1)) / pairs

    if section.compare == "pairs":
        margin = section.margin_weight * beyond if section.margin_weight else 0.0
        costs = mean(-logsigmoid(gaps - margin))
    else:
        # log(1 + the sum over worse answers of exp(their score - its own)): nothing, where none is worse
        worse = torch.where(is_pair, -gaps, -torch.inf)
        costs = view.per_atom(torch.logsumexp(torch.cat([worse, torch.zeros_like(worse[:, :1])], 1), 1))
    size = view.per_atom(torch.ones_like(scores)).clamp_min(1)
    return _Told(costs, mean((gaps > 0).float()), mean(gaps), 2 * view.per_atom(scores) / size)
