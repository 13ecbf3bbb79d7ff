"""Muon: matrices move along their momentum, orthogonalised (Jordan et al. 2024); everything else by AdamW.

An update in two parts. What is done element by element is the torch optimizer's (MatrixAdamW), which ZeRO may give
any range of any weight: momentum, and the direction to go. What needs the whole matrix comes after it
(Orthogonaliser): one rank makes the direction orthogonal, all of them move their part. So the gradient's norm and its
clipping are AdamW's, and an update is the same under every stage of ZeRO, which DeepSpeed's own Muon is not (decision
054). In the places of Adam's moments a matrix has `exp_avg`, its momentum, and `exp_avg_sq`, its last direction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raysft.engine.adam import AdamState

STEPS = 5
"""Newton-Schulz iterations (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Those of the iteration, likewise: singular values end between about 0.7 and 1.2, not at 1."""
RMS = 0.2
"""Root mean square of an update over the learning rate: AdamW's, so that one rate serves both (arXiv:2502.16982)."""


class MatrixAdamW(torch.optim.AdamW):
    """AdamW, but for groups with `momentum`: these get their momentum and direction, and their weights stay."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """An update of what is element by element. closure: torch's; none is expected."""
        assert closure is None
        followed = []
        for group in self.param_groups:
            for parameter in group["params"] if "momentum" in group else ():
                gradient = parameter.grad
                if gradient is not None:
                    self._follow(self.state[parameter], gradient, group["momentum"])
                    followed.append((parameter, gradient))
                    parameter.grad = None  # AdamW passes over it
        super().step()
        for parameter, gradient in followed:
            parameter.grad = gradient

    def _follow(self, state: dict[str, Tensor], gradient: Tensor, momentum: float) -> None:
        """Nesterov's momentum: the direction looks ahead by one more step of the mean."""
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - momentum)
        torch.lerp(gradient, state["exp_avg"], momentum, out=state["exp_avg_sq"])


class Orthogonaliser:
    """The second part of an update, of the matrices of one optimizer; AdamW has none. Collective: all ranks hold the
    same ones."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter], dtype: torch.dtype
    ) -> None:
        """optimizer: before DeepSpeed puts its partitions into the groups. dtype: what the iteration computes in."""
        self._dtype = dtype
        names = {parameter: name for name, parameter in trained.items()}
        self._groups = {
            names[parameter]: group
            for group in optimizer.param_groups
            if "momentum" in group
            for parameter in group["params"]
        }

    def finish(self, state: AdamState) -> int:
        """After the optimizer's step. Returns how many matrices there are.

        W <- (1 - rate * decay) W - rate * 0.2 sqrt(longer side) * orthogonal(direction).

        The matrices are shared out: each rank iterates on its own and tells the others.
        """
        rank, ranks = dist.get_rank(), dist.get_world_size()
        for number, (name, group) in enumerate(self._groups.items()):
            direction = state.moment(name, "exp_avg_sq").clone()
            if rank == number % ranks:
                direction = orthogonal(direction.to(self._dtype)).float().contiguous()
            dist.broadcast(direction, number % ranks)
            rate = group["lr"]
            step = rate * RMS * math.sqrt(max(direction.shape[-2:]))
            kept = 1 - rate * group["weight_decay"]
            state.set_weight(name, state.weight(name) * kept - step * direction)
        return len(self._groups)


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly U V' of each matrix U S V' [..., rows, columns], by Newton and Schulz's iteration."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = x.mT if is_tall else x
    return found
