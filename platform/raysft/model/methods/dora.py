"""DoRA (Liu et al. 2024, arXiv:2402.09353): LoRA, and a magnitude for each output, which begins as a norm of W.

Where weights are still in their files, the norms are those of blocks that are read for it. Shapes: W the weight of a
layer, O its outputs, D its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.model.methods import lora
from raysft.model.methods.adapters import adapter_layers, base_model
from raysft.model.methods.of_weights import OfWeight, Read
from raysft.model.stored import BLOCK
from raysft.recipe.schema import Recipe


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """As lora.attach; magnitudes of layers whose weights are placeholders are no numbers until they are computed."""
    with _without_norms_of_placeholders():
        return lora.attach(model, recipe)


@contextmanager
def _without_norms_of_placeholders() -> Iterator[None]:
    """peft would make three tensors of the size of a weight to find that its norms are no numbers."""
    from peft.tuners.lora.dora import DoraLinearLayer

    kind: Any = DoraLinearLayer
    pefts = kind.update_layer

    def update_layer(layer: Any, *, base_layer: Any, **others: Any) -> None:
        weight = base_layer.weight
        if weight.ndim != 2 or any(weight.stride()):
            pefts(layer, base_layer=base_layer, **others)
            return
        outputs = weight.shape[1 if layer.fan_in_fan_out else 0]
        layer.weight = nn.Parameter(torch.full((outputs,), torch.nan, device=weight.device))

    kind.update_layer = update_layer
    try:
        yield
    finally:
        kind.update_layer = pefts


def magnitudes(module: nn.Module) -> list[OfWeight]:
    """Those of all layers. module: of lora.attach."""
    found = []
    for _, layer in adapter_layers(base_model(module)):
        vector, weight = layer.lora_magnitude_vector["default"], layer.get_base_layer().weight
        norms = partial(_norms, weight.shape, weight.device, vector.fan_in_fan_out)
        found.append(OfWeight(vector.weight, weight, norms))
    return found


def _norms(shape: torch.Size, device: torch.device, is_transposed: bool, read: Read) -> Tensor:
    """L2 norm of a weight for each output, fp32: [O]. is_transposed: the weight lies as [D, O], not as [O, ...].

    Of whole rows they are peft's own, bit for bit; columns are summed up in float64, block after block.
    """
    width = shape[1:].numel()
    rows = max(1, BLOCK // width)
    norms, squares = [], torch.zeros(width, dtype=torch.float64, device=device)
    for first in range(0, shape[0], rows):
        block = torch.empty(min(rows, shape[0] - first), width, device=device)
        read(block.view(-1), first * width)
        if is_transposed:
            squares += block.double().square().sum(0)
        else:
            norms.append(torch.linalg.norm(block, dim=1))
    return squares.sqrt().float() if is_transposed else torch.cat(norms)
