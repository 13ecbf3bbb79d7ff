"""Classification of texts by a new head: cross-entropy of labels, or of each label by itself; on request focal.

A text of label y that the model gives the probability p costs -w_y (1 - p)^gamma log p (Lin et al. 2017,
arXiv:1708.02002; gamma 0 is cross-entropy, w_y 1 unless class_weights name it). Where a text may have several labels,
each is a question by itself, and the cost is the mean over the labels; w_y counts where it has the label. The loss is
the mean over the texts of the step that have a label, whatever their weights. A text without one is there for its
domain alone (domains.py).

Shapes: S texts, K labels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from raysft.metrics.calibration import BINS
from raysft.metrics.classes import CLASS_MEASURES, class_measures, num_counts
from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.domains import without_domains
from raysft.objectives.objective import Counted, Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.columns import UNKNOWN
from raysft.recipe.sections.head_objectives import ClassifyObjective
from raysft.recipe.sections.objective import ObjectiveSection


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, ClassifyObjective)
    classify, field = section, section.classes.field

    def loss(view: View, batch: DeviceBatch) -> Loss:
        scores, told = view.scores(), batch.fields[field.name]  # [S, K], [S] or [S, K]
        has_label, known = told.reshape(len(told), field.width).amin(-1) != UNKNOWN, told.clamp_min(0)
        weights = _on(scores.device, tuple(classify.class_weights.get(label, 1.0) for label in classify.labels))
        if classify.multi_label:
            costs, right = _of_each(scores, known, weights, classify.focal_gamma)
        else:
            costs, right = _of_one(scores, known.long(), weights, classify.focal_gamma)
        sums = {"classify": view.total(torch.where(has_label, costs, 0), "segment")}
        counts = _counts(scores.detach(), known, classify.multi_label) * has_label[:, None]
        metrics = {"accuracy": view.mean(right, "segment", has_label)}
        return Loss(sums, metrics, counts=view.total(counts, "segment"))

    counted = Counted(CLASS_MEASURES, num_counts(len(classify.labels)), class_measures)
    term = Term("classify", "segment", known=field.name if section.classes.optional else "")
    plain = Objective((term,), loss, (field,), metrics=("accuracy",), counted=counted)
    return without_domains(plain, classify.domains)


@lru_cache
def _on(device: torch.device, numbers: tuple[float, ...]) -> Tensor:
    """float32. Once: to bring numbers to a GPU is to wait for it."""
    return torch.tensor(numbers, device=device)


def _of_one(scores: Tensor, labels: Tensor, weights: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """([S] costs, [S] is the likeliest label right?) of texts with one label each. scores [S, K], labels [S]."""
    log_probs = torch.log_softmax(scores, -1).gather(-1, labels[:, None])[:, 0]
    return -weights[labels] * _focus(log_probs, gamma) * log_probs, scores.argmax(-1) == labels


def _of_each(scores: Tensor, has: Tensor, weights: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """([S] costs, [S] are all labels right?) of texts with any number of labels. scores, has [S, K]."""
    log_probs = torch.where(has > 0, logsigmoid(scores), logsigmoid(-scores))
    costs = -torch.where(has > 0, weights, 1.0) * _focus(log_probs, gamma) * log_probs
    return costs.mean(-1), ((scores > 0) == (has > 0)).all(-1)


def _counts(scores: Tensor, known: Tensor, several: bool) -> Tensor:
    """[S, numbers] of each text, in the order of metrics/classes.py. scores [S, K]; known [S] or [S, K]."""
    if several:
        has, told, said = known > 0, scores > 0, scores.sigmoid()
        spoken, true = said, has
    else:
        labels = scores.shape[-1]
        has, told = one_hot(known.long(), labels).bool(), one_hot(scores.argmax(-1), labels).bool()
        said = scores.softmax(-1)
        spoken, true = said.amax(-1, keepdim=True), (has & told).any(-1, keepdim=True)
    said, spoken = said.nan_to_num(), spoken.nan_to_num()
    edges = torch.linspace(0, 1, BINS + 1, device=scores.device)[1:-1]
    bins = one_hot(torch.bucketize(spoken, edges), BINS).float()  # [S, statements, BINS], an end belongs below
    sums = torch.stack([bins.sum(1), (bins * spoken[..., None]).sum(1), (bins * true[..., None]).sum(1)], -1)
    errors = (said - has.float()) ** 2
    brier = errors.mean(-1) if several else errors.sum(-1)
    ends = torch.stack([brier, torch.ones_like(brier)], -1)
    return torch.cat([(has & told).float(), has.float(), told.float(), sums.flatten(1), ends], -1)


def _focus(log_probs: Tensor, gamma: float) -> Tensor | float:
    """(1 - p)^gamma."""
    return (-torch.expm1(log_probs)).clamp(min=1e-12) ** gamma if gamma else 1.0
