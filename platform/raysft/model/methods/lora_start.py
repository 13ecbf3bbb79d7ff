"""What LoRA's matrices begin with where that is computed: PiSSA, OLoRA, EVA; and its place in a model.

PiSSA (Meng et al. 2024, arXiv:2404.02948) and OLoRA (Büyükakyüz 2024, arXiv:2406.01775) train a part s B0 A0 of a
weight, on the rest of it, W - s B0 A0. Here W is left alone: beside the trained adapter lies a frozen one of the same
size, `start`, which takes s B0 A0 away again. That is the same function with the same gradients, and the base stays
what is in its files: read by shares, partitioned, cut, merged into as ever (decision 045).

Shapes: R rank, D and O features in and out of a layer, N inputs of it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from raysft.errors import ModelError
from raysft.model.methods.adapters import adapter_layers, base_model, settled
from raysft.recipe.sections.method import LoraMethod

START = "start"
"""Name of the frozen adapter. Its B is -B0."""

RESIDUAL = ("pissa", "olora")
"""Beginnings that need it."""


def add_start(adapted: nn.Module, method: LoraMethod) -> None:
    """Put the frozen adapter beside `default`, as nothing (zeros) until set_start. Raises ModelError."""
    module: Any = adapted
    config = copy.deepcopy(module.peft_config["default"])
    config.lora_dropout, config.init_lora_weights = 0.0, True
    _check_layers(adapted, method)
    with settled():
        module.add_adapter(START, config)
        module.base_model.set_adapter(["default", START])
    for name, parameter in kept_parameters(adapted).items():
        parameter.requires_grad_(False)
        if not parameter.is_meta:
            nn.init.zeros_(parameter)
        assert START in name


def kept_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """{HF name: parameter} of those that are not trained, and not the base's: a checkpoint keeps them, too."""
    return {name: p for name, p in module.named_parameters() if f".{START}." in name and ".lora_" in name}


def set_start(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give fresh adapters what they begin with. tensors: of `start_tensors`, or what a file kept of them."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            module.get_parameter(name).copy_(tensor)


def start_tensors(adapted: nn.Module, method: LoraMethod, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{HF name of an adapter's parameter: what it begins with}, fp32 on CPU.

    adapted: with all weights. inputs: {name of an adapted layer: directions of its inputs [R, D]}, for EVA alone.
    """
    found: dict[str, Tensor] = {}
    names = {id(layer): name for name, layer in adapted.named_modules()}
    for name, layer in adapter_layers(base_model(adapted)):
        path = names[id(layer)]
        if method.init == "eva":
            found[f"{path}.lora_A.default.weight"] = inputs[name]
            continue
        base, scaling = layer.get_base_layer(), float(layer.scaling["default"])
        weight = base.weight.detach().float()
        matrix, rank = weight.T if isinstance(base, Conv1D) else weight, int(layer.r["default"])
        a, b = (part.cpu() for part in _begin(matrix, method.init, rank, scaling))
        found[f"{path}.lora_A.default.weight"] = found[f"{path}.lora_A.{START}.weight"] = a
        found[f"{path}.lora_B.default.weight"], found[f"{path}.lora_B.{START}.weight"] = b, -b
    return found


def _begin(weight: Tensor, init: str, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """A0 [R, D], B0 [O, R] of a weight [O, D]; scaling: what the adapter's product is multiplied by."""
    if init == "olora":
        q, r = torch.linalg.qr(weight)
        return r[:rank].contiguous(), q[:, :rank].contiguous()
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    roots = (values[:rank] / scaling).sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots


class InputDirections:
    """The directions in which the inputs of a layer vary most: what EVA begins with (Paischer et al. 2024,
    arXiv:2410.07170, algorithm 1), from batches, none of which is kept.

    A singular value decomposition of what was kept and the batch behind it; `kept` directions are kept, which is more
    than are asked for, so that one that is small in a batch and large in the data is not lost.
    """

    def __init__(self, rank: int) -> None:
        """rank: the most that will be asked for."""
        self._kept = max(4 * rank, 64)
        self._found: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """[N, D], any precision."""
        rows = inputs.float()
        together = rows if self._found is None else torch.cat([self._found, rows])
        _, values, right = torch.linalg.svd(together, full_matrices=False)
        self._found = values[: self._kept, None] * right[: self._kept]

    def largest(self, rank: int) -> Tensor:
        """[R, D], orthonormal, the largest first; fp32 on CPU. Raises ValueError where inputs were fewer than R."""
        found = self._found
        if found is None or len(found) < rank:
            raise ValueError(f"{0 if found is None else len(found)} inputs, rank {rank}")
        directions = found[:rank]
        unit: Tensor = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-30)
        return unit.cpu()


def is_residual(module: nn.Module) -> bool:
    """Does a frozen adapter lie beside the trained one?"""
    return bool(kept_parameters(module))


def widened(module: nn.Module) -> tuple[Any, dict[str, Tensor]]:
    """(peft's config, {name: tensor}) of both adapters as one of twice the rank, which plain peft loads on the base:
    s [B, -B0] [A; A0]. alpha grows with the rank, so that s stays."""
    loose: Any = module
    config = copy.deepcopy(loose.peft_config["default"])
    config.r, config.lora_alpha = 2 * config.r, config.lora_alpha * (math.sqrt(2) if config.use_rslora else 2)
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    factor = math.sqrt(2) if config.use_rslora else 2
    config.alpha_pattern = {name: alpha * factor for name, alpha in config.alpha_pattern.items()}
    tensors = {}
    parameters = dict(module.named_parameters())
    for kept, other in kept_parameters(module).items():
        name = kept.replace(f".{START}.", ".default.")
        tensors[name] = torch.cat([parameters[name].detach(), other.detach()], dim=0 if ".lora_A." in name else 1)
    return config, tensors


def _check_layers(adapted: nn.Module, method: LoraMethod) -> None:
    """Raises ModelError for layers whose weight is no matrix [outputs, inputs], or one of a lower rank."""
    for name, layer in adapter_layers(base_model(adapted)):
        base = layer.get_base_layer()
        if not isinstance(base, nn.Linear | Conv1D) or not hasattr(layer, "lora_A") or "default" not in layer.lora_A:
            raise ModelError(
                f"method.init: {method.init} begins with the weights of linear layers",
                got=f"{name}, a {type(base).__name__}",
                expected="adapters of linear layers",
                fix="name layers of the attention in method.target_modules, or set method.init: random",
            )
        if (rank := int(layer.r["default"])) > (most := min(base.weight.shape)):
            raise ModelError(
                f"method.init: {method.init} has no more directions than a weight has",
                got=f"rank {rank} for {name} {list(base.weight.shape)}",
                expected=f"at most {most}",
                fix="lower method.rank, give the layer its own in method.ranks, or set method.init: random",
            )
