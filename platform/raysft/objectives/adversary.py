"""Adversarial training on embeddings (FGM: Miyato et al. 2017, arXiv:1605.07725): each sample a step further uphill.

A sample's embeddings e [L, D], packed or not, are moved by r = epsilon g / |g|, where g is the gradient of the
sample's loss with respect to e and |g| the norm of all its numbers. Learnt from is loss(e) + loss(e + r); what is
told is loss(e), which means what it means without.

Shapes: B rows, T tokens a row, D hidden size, S segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raysft.objectives.base import Term
from raysft.objectives.objective import Loss


class Adversary:
    """Moves the embeddings of a model while it trains. Three passes a micro-batch: for g, plain, and moved."""

    def __init__(self, embedding: nn.Module, epsilon: float) -> None:
        """embedding: answers [B, T] ids with [B, T, D]; it is changed for good. epsilon: length of r."""
        self._epsilon, self._mark = epsilon, False
        self._marked: Tensor | None = None
        self._shift: Tensor | None = None
        self._module = embedding
        embedding.register_forward_hook(self._move)

    def learn(self, loss: Callable[[], Loss], terms: Sequence[Term], segment_of: Tensor, count: int) -> Loss:
        """loss() of a micro-batch, with the gradients of both; alone where nothing is trained.

        segment_of: [B, T], the segment of each token, of `count`; -1 for padding.
        """
        if not (self._module.training and torch.is_grad_enabled()):
            return loss()
        gradient = self._gradient(loss, terms)
        plain = loss()
        self._shift = self._epsilon * _unit(gradient, segment_of, count)
        moved = loss()
        self._shift = None
        return plain._replace(
            sums={name: value + (moved.sums[name] - moved.sums[name].detach()) for name, value in plain.sums.items()}
        )

    def _gradient(self, loss: Callable[[], Loss], terms: Sequence[Term]) -> Tensor:
        """[B, T, D]: of the weighted sums with respect to the embeddings."""
        self._mark = True
        sums = loss().sums
        self._mark, marked = False, self._marked
        assert marked is not None
        total = torch.stack([term.weight * sums[term.name].float().sum() for term in terms]).sum()
        self._marked = None
        (gradient,) = torch.autograd.grad(total, marked, materialize_grads=True)
        return gradient

    def _move(self, embedding: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        if self._mark:
            self._marked = embedded if embedded.requires_grad else embedded.requires_grad_()
            return self._marked
        return embedded if self._shift is None else embedded + self._shift.to(embedded.dtype)


def _unit(gradient: Tensor, segment_of: Tensor, count: int) -> Tensor:
    """[B, T, D] float32: the part of each segment divided by its length; 0 at padding, and where there is none."""
    exact, places = gradient.float(), segment_of + 1  # 0: padding
    squares = exact.new_zeros(count + 1).index_add(0, places.flatten(), exact.pow(2).sum(-1).flatten())
    scale = torch.where(squares > 0, squares.clamp(min=1e-30).rsqrt(), 0.0)
    scale[0].zero_()
    return exact * scale[places].unsqueeze(-1)
