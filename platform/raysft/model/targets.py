"""Which layers and parameters of a model an adapter can be put on, by what their code does. Knows no peft."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from raysft.model.decoder import unread
from raysft.model.encoder import head_of_encoder
from raysft.model.fast.loss_head import LossHead
from raysft.recipe.adapter_sizes import ends_in


def unfit_layers(model: PreTrainedModel, targets: str | list[str]) -> list[str]:
    """Layers that get no adapter though their name is among the targets (`all-linear`, or ends of names).

    Those that no text passes (a vision tower); linear ones that answer no tensor (the router of PhiMoE: a tuple);
    and those whose weights are read past the layer, and so past any adapter around it: in a Mamba mixer behind
    in_proj (its kernels do), and in routers (LongCat's). Nor the new head of an encoder, which is trained whole.
    """
    towers = tuple(f"{name}." for name in unread(model))
    mixers = tuple(f"{name}." for name, m in model.named_modules() if {"A_log", "D"} <= m._parameters.keys())
    own = head_of_encoder(model)
    new = set() if own is None else set(own.modules())
    routers = tuple(f"{name}." for name, m in model.named_modules() if "router" in type(m).__name__.lower())
    unfit = []
    for name, module in model.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        is_target = isinstance(module, nn.Linear) if isinstance(targets, str) else ends_in(name, tuple(targets))
        is_bypassed = f"{name}.".startswith(routers) or (name.startswith(mixers) and not leaf.startswith("in_proj"))
        is_left = is_bypassed or module in new or f"{name}.".startswith(towers)
        if is_target and (is_left or not _answers_a_tensor(module)):
            unfit.append(name)
    return unfit


def missing_targets(model: PreTrainedModel, targets: Iterable[str], unfit: Sequence[str]) -> list[str]:
    """Targets that no layer which can be adapted ends in: with them less would be trained than is said."""
    leaves = [name for name, module in model.named_modules() if not list(module.children()) and name not in unfit]
    return [target for target in targets if not any(ends_in(name, (target,)) for name in leaves)]


def named_layers(model: PreTrainedModel, targets: str | list[str], unfit: Sequence[str]) -> list[str]:
    """Full names of the layers that targets (`all-linear`, which leaves the LM head alone, or ends of names) mean."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if name not in unfit
        and (
            isinstance(module, nn.Linear | Conv1D) and module is not head
            if isinstance(targets, str)
            else ends_in(name, tuple(targets)) and not list(module.children())
        )
    ]


def expert_parameters(model: PreTrainedModel) -> list[str]:
    """Ends of the names of parameters that hold all experts of a mixture, each [experts, ...]."""
    return sorted(
        {
            f"{path.rsplit('.', 1)[-1]}.{name}"
            for path, owner in model.named_modules()
            for name, parameter in owner.named_parameters(recurse=False)
            if "experts" in type(owner).__name__.lower() and parameter.ndim == 3 and "bias" not in name
        }
    )


def _answers_a_tensor(layer: nn.Module) -> bool:
    """Can an adapter's product be added to what it answers? Asked of linear layers with a forward of their own."""
    if not isinstance(layer, nn.Linear) or type(layer).forward is nn.Linear.forward or isinstance(layer, LossHead):
        return True
    try:
        with torch.no_grad():
            return isinstance(layer(layer.weight.new_zeros(1, layer.in_features)), torch.Tensor)
    except (TypeError, ValueError, RuntimeError, LookupError):
        return False
