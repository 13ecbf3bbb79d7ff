"""IA3: scales of activations inside of a frozen model (Liu et al. 2022, arXiv:2205.05638)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.methods.adapters import base_model, no_layer, settled, task_type, untie
from raysft.model.targets import expert_parameters, missing_targets, unfit_layers
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import Ia3Method


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model with scales of 1, so that it computes what it did. Raises ModelError."""
    from peft import IA3Config, get_peft_model  # 4 s to import: only where it is used

    method = recipe.method
    assert isinstance(method, Ia3Method)
    targets = list(method.target_modules)
    unfit = unfit_layers(model, targets)
    _check_names(model, method, unfit)
    config = IA3Config(
        target_modules=targets,
        feedforward_modules=list(method.feedforward_modules),
        exclude_modules=unfit or None,
        task_type=task_type(model),
    )
    try:
        with settled():
            adapted: nn.Module = get_peft_model(model, config)
    except ValueError as error:
        told = " ".join(str(error).split())[:200]
        raise no_layer(model, targets, told, takes_all_linear=False) from error
    untie(base_model(adapted))
    return adapted


def _check_names(model: PreTrainedModel, method: Ia3Method, unfit: Sequence[str]) -> None:
    """Every name must fit a layer that can be adapted, or less would be trained than is said. Raises ModelError."""
    if "all-linear" in method.target_modules:
        raise no_layer(model, method.target_modules, "scales go on layers by name", takes_all_linear=False)
    if others := set(method.feedforward_modules) - set(method.target_modules):
        raise ModelError(
            "method.feedforward_modules are some of method.target_modules",
            got=f"{', '.join(sorted(others))}, which are none",
            expected=f"some of {', '.join(method.target_modules)}",
            fix="add them to method.target_modules, or take them out",
        )
    if missing := missing_targets(model, method.target_modules, unfit):
        experts = expert_parameters(model)
        told = f"no layer is named {', '.join(missing)}"
        if experts:
            told += f"; experts ({experts[0]}) take no scales"
        raise no_layer(model, method.target_modules, told, takes_all_linear=False)
