"""Supervised fine-tuning: minus the log-likelihood of the target tokens, per target token of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from raysft.model.fast.loss import OutputHead, weighted_nll

TERM = "nll"
"""The one term of this objective; its unit is a (weighted) target token."""


def units(token_fields: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Units of a row: {term: sum of target weights}."""
    return {TERM: float(token_fields["target"].sum(dtype=np.float64))}


def loss_sums(
    hidden: Tensor, head: OutputHead, labels: Tensor, weights: Tensor, sizes: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """{term: sum over targets}. See LossSums."""
    return {TERM: weighted_nll(hidden, head, labels, weights, sizes)}
