"""The module that an engine trains: a model and its objective in one forward.

Owns the choice of the objective. Its forward returns sums, never means: whoever divides knows the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from raysft.model.loss import IGNORE, target_log_probs
from raysft.model.methods import base_model
from raysft.objectives import sft
from raysft.recipe.schema import Recipe


@dataclass(frozen=True)
class Objective:
    """What is minimised. `units` runs on the host before the forward, `loss_sums` inside it."""

    units: Callable[[Mapping[str, np.ndarray]], dict[str, float]]
    loss_sums: Callable[[Tensor, Tensor], dict[str, Tensor]]


def make_objective(recipe: Recipe) -> Objective:
    """The objective that a recipe names."""
    match recipe.objective:
        case "sft":
            return Objective(units=sft.units, loss_sums=sft.loss_sums)


class ObjectiveModule(nn.Module):
    """forward(input_ids, position_ids, labels, weights), each [B, T] -> {term: sum over the micro-batch}."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Loss sums of one micro-batch."""
        log_probs = target_log_probs(base_model(self.model), input_ids, position_ids, labels)
        return self.objective.loss_sums(log_probs, weights[labels != IGNORE])
