"""Classification of texts by a new head: cross-entropy of labels, or of each label by itself; on request focal.

A text of label y that the model gives the probability p costs -w_y (1 - p)^gamma log p (Lin et al. 2017,
arXiv:1708.02002; gamma 0 is cross-entropy, w_y 1 unless class_weights name it). Where a text may have several labels,
each is a question by itself, and the cost is the mean over the labels; w_y counts where it has the label. The loss is
the mean over the texts of the step, whatever their weights.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.sections.head_objectives import ClassifyObjective
from raysft.recipe.sections.objective import ObjectiveSection


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, ClassifyObjective)
    classify, field = section, section.classes.field

    def loss(view: View, batch: DeviceBatch) -> Loss:
        scores, known = view.scores(), batch.fields[field.name]  # [S, K], [S] or [S, K]
        weights = scores.new_tensor([classify.class_weights.get(label, 1.0) for label in classify.labels])
        if classify.multi_label:
            costs, right = _of_each(scores, known, weights, classify.focal_gamma)
        else:
            costs, right = _of_one(scores, known.long(), weights, classify.focal_gamma)
        return Loss({"classify": view.total(costs, "segment")}, {"accuracy": view.mean(right, "segment")})

    return Objective((Term("classify", "segment"),), loss, (field,), metrics=("accuracy",))


def _of_one(scores: Tensor, labels: Tensor, weights: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """([S] costs, [S] is the likeliest label right?) of texts with one label each. scores [S, K], labels [S]."""
    log_probs = torch.log_softmax(scores, -1).gather(-1, labels[:, None])[:, 0]
    return -weights[labels] * _focus(log_probs, gamma) * log_probs, scores.argmax(-1) == labels


def _of_each(scores: Tensor, has: Tensor, weights: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """([S] costs, [S] are all labels right?) of texts with any number of labels. scores, has [S, K]."""
    log_probs = torch.where(has > 0, logsigmoid(scores), logsigmoid(-scores))
    costs = -torch.where(has > 0, weights, 1.0) * _focus(log_probs, gamma) * log_probs
    return costs.mean(-1), ((scores > 0) == (has > 0)).all(-1)


def _focus(log_probs: Tensor, gamma: float) -> Tensor | float:
    """(1 - p)^gamma."""
    return (-torch.expm1(log_probs)).clamp(min=1e-12) ** gamma if gamma else 1.0
