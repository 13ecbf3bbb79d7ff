"""Divergences of which K tokens are known: zero of equals, never below, and their bounds."""

from __future__ import annotations

import math

import torch

from raysft.objectives.divergence import js_divergence, kl_divergence

D, V, K = 8, 19, 2


def test_the_divergence_is_zero_of_equals_and_never_below() -> None:
    draw = torch.Generator().manual_seed(4)
    ours, theirs = (torch.log_softmax(torch.randn(50, 30, generator=draw), -1)[:, :K] for _ in range(2))
    torch.testing.assert_close(kl_divergence(ours, ours), torch.zeros(50))
    assert float(kl_divergence(theirs, ours).min()) > 0
    sure = torch.log(torch.tensor([[1.0 - 1e-9, 1e-9]]))
    assert bool(kl_divergence(sure, theirs[:1]).isfinite().all())
    assert bool(kl_divergence(theirs[:1], sure).isfinite().all())


def test_jensen_shannon_knows_no_order_and_ends_at_log_2() -> None:
    draw = torch.Generator().manual_seed(4)
    ours, theirs = (torch.log_softmax(torch.randn(50, 30, generator=draw), -1)[:, :K] for _ in range(2))
    found = js_divergence(ours, theirs)
    torch.testing.assert_close(found, js_divergence(theirs, ours))
    assert 0 < float(found.min()) < float(found.max()) < math.log(2)
    torch.testing.assert_close(js_divergence(ours, ours), torch.zeros(50), atol=1e-6, rtol=0)
    apart = js_divergence(torch.log(torch.tensor([[0.999, 1e-6]])), torch.log(torch.tensor([[1e-6, 0.999]])))
    assert abs(float(apart) - math.log(2)) < 0.01
