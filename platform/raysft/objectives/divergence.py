"""Divergences of two distributions of which K tokens are known; all others count as one. In nats.

Shapes: N positions, K tokens of each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_divergence(reference: Tensor, found: Tensor) -> Tensor:
    """KL(reference || found), [N], from the log-probabilities of K tokens, [N, K]; all others count as one."""
    kept = (reference.exp() * (reference - found)).sum(-1)
    others, ours = (_rest(log_probs) for log_probs in (reference, found))
    return kept + others * (others.log() - ours.log())


def _rest(log_probs: Tensor) -> Tensor:
    """1 - the sum of the probabilities, [N]; never below what fp32 can tell from nothing."""
    return (1 - log_probs.exp().sum(-1)).clamp_min(torch.finfo(torch.float32).eps)


def js_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon: the mean of both KL to the mixture of the two, [N]. See kl_divergence."""
    p, q = (torch.cat([one, _rest(one).log().unsqueeze(-1)], -1) for one in (first, second))  # [N, K + 1]
    mixture = torch.logaddexp(p, q) - math.log(2)
    return ((p.exp() * (p - mixture)).sum(-1) + (q.exp() * (q - mixture)).sum(-1)) / 2
