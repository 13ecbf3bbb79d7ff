"""Supervised tuning and its guard: the divergence from the untrained model."""

from __future__ import annotations

import torch

from raysft.objectives.guard import kl_divergence

D, V, K = 8, 19, 2


def test_the_divergence_is_zero_of_equals_and_never_below() -> None:
    draw = torch.Generator().manual_seed(4)
    ours, theirs = (torch.log_softmax(torch.randn(50, 30, generator=draw), -1)[:, :K] for _ in range(2))
    torch.testing.assert_close(kl_divergence(ours, ours), torch.zeros(50))
    assert float(kl_divergence(theirs, ours).min()) > 0
    sure = torch.log(torch.tensor([[1.0 - 1e-9, 1e-9]]))
    assert bool(kl_divergence(sure, theirs[:1]).isfinite().all())
    assert bool(kl_divergence(theirs[:1], sure).isfinite().all())
