"""Supervised fine-tuning: minus the log-likelihood of the target tokens, per target token of the step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from raysft.model.fast.loss import OutputHead, weighted_nll
from raysft.objectives.base import NLL, Term

TERMS = (Term(NLL, "target_token"),)


def loss_sums(
    hidden: Tensor, head: OutputHead, labels: Tensor, weights: Tensor, sizes: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """{term: sum over targets}. See LossSums."""
    return {NLL: weighted_nll(hidden, head, labels, weights, sizes)}
