"""The module that an engine trains: a model and its objective in one forward.

Owns the choice of the objective. Its forward returns sums, never means: whoever divides knows the step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from raysft.model.fast.loss import IGNORE, OutputHead, hidden_states, output_head
from raysft.model.fast.loss_head import LossHead
from raysft.model.fast.ulysses import SequenceGroup, hidden_part
from raysft.model.methods import base_model
from raysft.objectives import sft
from raysft.objectives.base import RowFields, Term, count_units
from raysft.recipe.schema import Recipe

logger = logging.getLogger(__name__)


class LossSums(Protocol):
    """How an objective reads a model's hidden states."""

    def __call__(
        self, hidden: Tensor, head: OutputHead, labels: Tensor, weights: Tensor, sizes: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """hidden [B, T, D], labels and weights [B, T] -> {term: sum, []}.

        sizes: positions of each of P parts that lie behind each other: {term: sums, [P]}, from a head that is frozen.
        """


@dataclass(frozen=True)
class Objective:
    """What is minimised: terms with their units, and how their sums are made inside of the forward."""

    terms: tuple[Term, ...]
    loss_sums: LossSums

    def units(self, rows: Sequence[RowFields]) -> dict[str, float]:
        """{term: units of these rows}. Runs on the host, before the forward."""
        return count_units(self.terms, rows)


def make_objective(recipe: Recipe) -> Objective:
    """The objective that a recipe names."""
    match recipe.objective.kind:
        case "sft":
            return Objective(sft.TERMS, sft.loss_sums)


class ObjectiveModule(nn.Module):
    """forward(input_ids, position_ids, labels, weights), each [B, T] -> {term: sum over the micro-batch}."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        head = output_head(base_model(model)).module
        if not isinstance(head, LossHead):
            logger.warning("the loss of an LM head of type %s is computed twice (slower)", type(head).__name__)
        self.model = model
        self.objective = objective
        self.sequence: SequenceGroup | None = None
        """Ranks that share the rows; then the sums are of this rank's part of them."""

    def forward(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Loss sums of one micro-batch."""
        model = base_model(self.model)
        if self.sequence is None:
            hidden = hidden_states(model, input_ids, position_ids)
        else:
            hidden = hidden_part(model, input_ids, position_ids, self.sequence)
            labels, weights = self.sequence.own(labels, IGNORE), self.sequence.own(weights, 0.0)
        return self.objective.loss_sums(hidden, output_head(model), labels, weights)
