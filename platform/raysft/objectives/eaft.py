"""Entropy-adaptive fine-tuning (arXiv:2601.02151): targets weigh as much as the model is unsure of them.

A target's cross-entropy is multiplied by (entropy of the k likeliest tokens among themselves / log k)^power, a weight
without a gradient: where the model is sure of another token, little is learned, so that what it knows is kept. Per
target token of the step. (The authors' code divides the entropy of 20 tokens by 3; log 20 is 2.996.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raysft.objectives.base import NLL, Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.guard import guarded
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.sections.objective import EaftObjective, ObjectiveSection


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, EaftObjective)
    eaft = section

    def loss(view: View, batch: DeviceBatch) -> Loss:
        trained = batch.known.trained
        log_probs, weights = view.log_probs(), trained.of(batch.weights)  # [N]
        share = _unsure(view.likeliest_log_probs(trained, eaft.entropy_top_k)) ** eaft.power
        costs = -log_probs * share * weights
        return Loss({"eaft": view.total_at(costs, trained)}, {NLL: view.mean_at(-log_probs, weights, trained)})

    return guarded(Objective((Term("eaft", "target_token"),), loss, metrics=(NLL,)), eaft)


def _unsure(log_probs: Tensor) -> Tensor:
    """Entropy of k tokens among themselves as a share of log k: [N, k] -> [N], 0 to 1."""
    among = torch.log_softmax(log_probs, -1)
    entropy = -(among.exp() * among).sum(-1)
    return (entropy / math.log(log_probs.shape[-1])).clamp_min(0)
