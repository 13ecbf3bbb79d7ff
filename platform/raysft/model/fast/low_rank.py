"""An adapted linear layer in one piece, on a GPU: x W^T + bias + scaling (x A^T) B^T.

peft adds the adapter's answer to the layer's as a tensor of its own, which is scaled first: three more passes over
[N, O] forward and as many backward, a tenth of a step of LoRA at 8B (docs/benchmarks.md). Here the small product is
added by the matrix unit that makes it.

Shapes: N tokens, D and O features in and out of a layer, R rank.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raysft.model.fast.autograd import applied

logger = logging.getLogger(__name__)


def use_low_rank(layers: Iterable[Any]) -> int:
    """Have peft's adapted linear layers compute by adapted_linear(). Returns how many do: not those with dropout."""
    plain = [layer for layer in layers if _is_plain(layer)]
    for layer in plain:
        layer.forward = MethodType(_forward, layer)
    if plain:
        logger.info("adapters: in one piece with their layer, in %d layers", len(plain))
    return len(plain)


def _is_plain(layer: Any) -> bool:
    """One adapter of two matrices, without dropout, bias or a variant such as DoRA, on a frozen nn.Linear."""
    return (
        list(layer.lora_A) == ["default"]
        and type(layer.base_layer) is nn.Linear
        and not any(p.requires_grad for p in layer.base_layer.parameters())
        and isinstance(layer.lora_dropout["default"], nn.Identity)
        and layer.lora_B["default"].bias is None
        and not layer.lora_variant
    )


def _forward(self: Any, x: Tensor, *others: object, **named: object) -> Tensor:
    base = self.base_layer
    is_gathered = hasattr(base.weight, "ds_id")  # ZeRO 3 gathers the weights of a module around its own forward
    is_cut = type(base) is not nn.Linear  # tensor parallelism put a layer in its place that sums over the ranks
    a, b = self.lora_A["default"].weight, self.lora_B["default"].weight
    is_mixed = not x.dtype == a.dtype == base.weight.dtype  # peft converts from and to
    if self.disable_adapters or self.merged or is_gathered or is_cut or is_mixed or others or named:
        answer: Tensor = type(self).forward(self, x, *others, **named)
        return answer
    return adapted_linear(x, base.weight, base.bias, a, b, self.scaling["default"])


def adapted_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """x [..., D], weight [O, D] and bias [O] without gradients, a [R, D], b [O, R], of one dtype -> [..., O]."""
    answer: Tensor = applied(_AdaptedLinear, x, weight, bias, a, b, scaling)
    return answer


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        inner = flat @ a.T  # [N, R]
        answer = nn.functional.linear(flat, weight, bias).addmm_(inner, b.T, alpha=scaling)
        ctx.save_for_backward(flat, weight, a, b, inner)
        ctx.scaling = scaling
        return answer.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b, inner = ctx.saved_tensors
        up = upstream.reshape(-1, upstream.shape[-1])
        back = (up @ b).mul_(ctx.scaling)  # [N, R]
        grad_x = (up @ weight).addmm_(back, a).view(*upstream.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, back.T @ flat, (up.T @ inner).mul_(ctx.scaling), None
