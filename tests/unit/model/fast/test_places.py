"""Positions of rows by their numbers, against masks: what stands there, and the gradient."""

from __future__ import annotations

import torch

from raysft.model.fast.places import Places


def test_places_are_those_of_a_mask_and_so_are_gradients() -> None:
    torch.manual_seed(0)
    values, mask = torch.randn(3, 7, 5, requires_grad=True), torch.rand(3, 7) < 0.4
    upstream = torch.randn(int(mask.sum()), 5)
    found = Places.where(mask).of(values)
    (ours,) = torch.autograd.grad(found, values, upstream)
    (theirs,) = torch.autograd.grad(values[mask], values, upstream)
    assert torch.equal(found, values[mask])
    assert torch.equal(ours, theirs)
    assert Places.where(mask).of(mask).all()
    assert Places.where(mask & ~mask).of(values).shape == (0, 5)
