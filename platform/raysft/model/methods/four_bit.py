"""A frozen base in 4 bits: NormalFloat with double quantisation (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).

Owns which layers are held so, and the numbers that they then compute with. While a model is trained its linear layers
hold 4 bits a weight; whoever merges, exports or evaluates holds the same numbers in full: adding an adapter's product
to 4 bits would round it away. bitsandbytes does both, on CPU and GPU; it belongs to the extra `qlora`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.decoder import decoder
from raysft.model.fast.autograd import applied
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of

_BLOCK = 64
"""Weights that share a scale."""


def check_four_bit(recipe: Recipe) -> None:
    """Is what it needs there? Raises ModelError."""
    if method_of(recipe).is_four_bit(recipe.method) and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "method.base_precision: nf4 needs the package bitsandbytes",
            got="no such package in this environment",
            expected="bitsandbytes on the driver and on every node",
            fix="pip install 'raysft[qlora]' there, or set method.base_precision: full",
        )


def four_bit_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """{name: linear layer} that is held in 4 bits: those of the decoder layers, adapted or not; not head, embedding,
    norms, experts in one parameter, or what an adapter adds."""
    inside = {id(module) for module in decoder(model).modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and id(module) in inside and ".lora_" not in name
    }


def hold_in_four_bits(model: PreTrainedModel, recipe: Recipe) -> None:
    """Replace the linear layers of a model, adapters around them or not, by such of 4 bits. Raises ModelError.

    What is a placeholder yet is packed when it is read (`four_bit_packs`).
    """
    if not method_of(recipe).is_four_bit(recipe.method):
        return
    check_four_bit(recipe)
    layers = four_bit_layers(model)
    if not layers:
        raise ModelError(
            "there is no linear layer that could be held in 4 bits",
            got=f"a {model.config.model_type} model",
            expected="linear layers in its decoder",
            fix="set method.base_precision: full",
        )
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        held = FourBitLinear(layer)
        if any(layer.weight.stride()):
            held.pack(layer.weight)
        setattr(model.get_submodule(parent), child, held)


def four_bit_packs(module: nn.Module) -> dict[nn.Parameter, Callable[[Tensor], None]]:
    """{weight of a layer of 4 bits: what packs it, given its numbers in fp32}."""
    return {layer.weight: layer.pack for layer in module.modules() if isinstance(layer, FourBitLinear)}


def as_held(model: PreTrainedModel, recipe: Recipe) -> Callable[[nn.Parameter, Tensor], Tensor]:
    """(parameter of the model, its weight in fp32) -> the numbers that training computed with, fp32."""
    if not method_of(recipe).is_four_bit(recipe.method):
        return lambda parameter, weight: weight
    check_four_bit(recipe)
    held = {layer.weight for layer in four_bit_layers(model).values()}
    return lambda parameter, weight: _rounded(weight) if parameter in held else weight


def round_as_held(model: PreTrainedModel, recipe: Recipe) -> None:
    """Give the weights of a whole model the numbers that training computes with."""
    rounded = as_held(model, recipe)
    for parameter in model.parameters():
        parameter.data = rounded(parameter, parameter.data)


class FourBitLinear(nn.Module):
    """y = x W^T + b of a frozen W [O, D] in 4 bits, in the precision of x.

    Not bitsandbytes' own layer: on a CPU that repacks its weight, and rounds its scales, when it is first asked
    without gradients (0.50.2), so that a held-out loss would be of other numbers than the training's.
    """

    def __init__(self, layer: nn.Linear) -> None:
        """With the weight of the layer until it is packed."""
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
        self.bias = layer.bias
        self._state: Any = None

    def pack(self, weight: Tensor) -> None:
        """Hold these numbers, [O, D], on their device."""
        self.weight.data, self._state = _packed(weight.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., O]."""
        answer: Tensor = applied(_Product, x, self.weight, self._state)
        return answer if self.bias is None else answer + self.bias


class _Product(torch.autograd.Function):
    """The weight exists in full for the time of a product, forward and backward; nothing of x is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, state: Any) -> Tensor:
        ctx.packed, ctx.state = packed, state
        return x @ _full(packed, state).to(x.dtype).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return upstream @ _full(ctx.packed, ctx.state).to(upstream.dtype), None, None


def _rounded(weight: Tensor) -> Tensor:
    """The numbers that 4 bits hold of a weight."""
    return _full(*_packed(weight.float())).to(weight.dtype)


def _packed(weight: Tensor) -> tuple[Tensor, Any]:
    from bitsandbytes.functional import quantize_4bit  # of the extra `qlora`

    packed, state = quantize_4bit(weight.contiguous(), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4")
    return packed, state


def _full(packed: Tensor, state: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit  # of the extra `qlora`

    found: Tensor = dequantize_4bit(packed, state)
    return found
