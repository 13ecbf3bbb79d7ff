"""Matrix products by the fastest way that keeps fp32 sums: oneDNN for fp32 on a CPU, cuBLAS with fp32 results for
half precision on a GPU.

On a CPU torch gives products in fp32 to MKL, which leaves half of each vector unit of another maker's processor
idle: on an AMD EPYC of the fifth generation oneDNN, which torch has in it too, does 2.2 times as many FLOP/s
(docs/benchmarks.md). Which one it is depends on the processor alone, not on a measurement: a run that goes on
computes the same bits.

Shapes: N tokens, D and O features in and out of a layer.
"""

from __future__ import annotations

import logging
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from raysft.model.fast.autograd import applied

logger = logging.getLogger(__name__)

LEAST_WEIGHTS = 2**14
"""Fewest weights of a layer that is replaced: in a smaller one the calls, 60 us longer in all, cost what is saved."""

BLOCK = 1024
"""Rows of a product that is added: they stay in the cache until they are."""


@cache
def onednn_is_faster() -> bool:
    """On this machine's CPU: it has AVX-512, and torch's own choice is MKL, which uses that on Intel's only."""
    backends: Any = torch.backends
    has_both = backends.mkl.is_available() and backends.mkldnn.is_available()
    return has_both and torch.backends.cpu.get_cpu_capability() == "AVX512" and _vendor() != "GenuineIntel"


def _vendor(cpus: str = "/proc/cpuinfo") -> str:
    with open(cpus) as file:
        lines = (line.partition(":") for line in file)
        return next((value.strip() for name, _, value in lines if name.strip() == "vendor_id"), "")


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of [N, D] and [D, O], either of them transposed or not. No gradients."""
    return _onednn(a, b.T) if _suits(a, b) else a @ b


def add_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total += a @ b in place; first: what is in total [N, O] does not count. No gradients.

    total is fp32 or of the dtype of a and b; fp32 sums of half-precision products are not rounded before they are
    added.
    """
    if a.dtype != total.dtype:
        if not _has_wide_products(a):
            found = a @ b
            total.copy_(found) if first else total.add_(found)
        elif first:
            torch.mm(a, b, out_dtype=total.dtype, out=total)
        else:
            torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
        return
    if not _suits(a, b):
        torch.addmm(total, a, b, beta=0 if first else 1, out=total)  # 0: what empty memory holds is not read
        return
    for rows, some in zip(torch.split(total, BLOCK), torch.split(a, BLOCK), strict=True):
        found = _onednn(some, b.T)
        rows.copy_(found) if first else rows.add_(found)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch.nn.functional.linear: x [..., D], weight [O, D], bias [O] -> [..., O]."""
    if not _suits(x, weight):
        return nn.functional.linear(x, weight, bias)
    answer: Tensor = applied(_Linear, x.reshape(-1, x.shape[-1]), weight, bias)
    return answer.view(*x.shape[:-1], len(weight))  # here, so that a caller may add to it in place


def wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """linear() of x [N, D] with an answer in fp32 or more: on a GPU never rounded to half precision. No gradients."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if bias is None and x.dtype == weight.dtype and x.dtype != wide and _has_wide_products(x):
        return torch.mm(x, weight.T, out_dtype=wide)
    return linear(x, weight, bias).to(wide)


def _has_wide_products(x: Tensor) -> bool:
    """Does torch multiply factors like x into fp32? It does on a GPU."""
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16)


def use_products(model: PreTrainedModel) -> bool:
    """Have the linear layers of a model compute by linear(). False, and nothing changed, where MKL is as fast.

    Layers keep their class: DeepSpeed's tensor parallelism goes by it, and puts its own in their place.
    """
    if not onednn_is_faster() or model.device.type != "cpu":
        return False
    layers: list[Any] = [m for m in model.modules() if type(m) is nn.Linear and m.weight.numel() >= LEAST_WEIGHTS]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    if layers:
        logger.info("matrix products in fp32: oneDNN, in %d layers", len(layers))
    return bool(layers)


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    """x [N, D] -> [N, O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            _onednn(upstream, weight.T) if wanted[0] else None,
            _onednn(upstream.T, x.T) if wanted[1] else None,
            upstream.sum(0) if wanted[2] else None,
        )


def _suits(a: Tensor, b: Tensor) -> bool:
    is_fp32 = a.dtype == b.dtype == torch.float32
    return is_fp32 and a.device.type == b.device.type == "cpu" and onednn_is_faster()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N, D], weight [O, D], bias [O] -> [N, O]. The operator that torch's compiler gives linear layers."""
    answer: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return answer
