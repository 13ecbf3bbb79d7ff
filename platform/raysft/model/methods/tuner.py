"""Further adapters of peft that merge, through one entry: those of the table recipe/tuners.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from raysft.errors import ModelError
from raysft.model.methods.adapters import (
    adapter_layers,
    base_model,
    no_layer,
    refuse_experts,
    settled,
    task_type,
    untie,
)
from raysft.model.targets import missing_targets, named_layers, unfit_layers
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import TunerMethod
from raysft.recipe.tuners import TUNERS, tuner_options


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model with fresh adapters, which computes what it did. What is random in them follows recipe.seed.

    Raises ModelError.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType, get_peft_model  # 4 s to import: only where it is used

    method = recipe.method
    assert isinstance(method, TunerMethod)
    tuner = TUNERS[method.tuner]
    targets: str | list[str] = list(method.target_modules)
    if targets == ["all-linear"]:
        targets = "all-linear"
        refuse_experts(model, tuner.title)
    unfit = unfit_layers(model, targets)
    if targets != "all-linear" and (missing := missing_targets(model, targets, unfit)):
        raise no_layer(model, method.target_modules, f"no layer is named {', '.join(missing)}")
    named: dict[str, Any] = {
        **tuner_options(method),
        **tuner.fixed,
        "task_type": task_type(model),
        "target_modules": targets,
    }
    if tuner.seed_option:
        named[tuner.seed_option] = recipe.seed
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(tuner.peft_type)]
    if unfit and "exclude_modules" in config_class.__dataclass_fields__:
        named["exclude_modules"] = unfit
    elif unfit:
        named["target_modules"] = named_layers(model, targets, unfit)
    meant = named_layers(model, targets, unfit)
    others = [name for name in meant if not isinstance(model.get_submodule(name), nn.Linear)]
    _check_ranks(model, meant, method)
    generator_state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    try:
        with settled():
            adapted: nn.Module = get_peft_model(model, config_class(**named))
        _check_sizes(adapted, method)
    except (ValueError, RuntimeError, AssertionError, TypeError, ArithmeticError) as error:
        told = " ".join(str(error).split())[:200]
        raise _refusal(tuner.title, model, others if "not supported" in told else [], told) from error
    finally:
        torch.set_rng_state(generator_state)
    untie(base_model(adapted))
    return adapted


def _refusal(title: str, model: PreTrainedModel, others: Sequence[str], told: str) -> ModelError:
    """others: layers that are meant and no nn.Linear, where peft says that it supports a layer not."""
    if others:
        kind = type(model.get_submodule(others[0])).__name__
        return ModelError(
            f"peft puts no {title} on layers of this kind",
            got=f"{others[0]}, a {kind} ({model.config.model_type})",
            expected="linear layers (torch.nn.Linear)",
            fix="name linear layers in method.target_modules, or set method.kind: lora",
        )
    return ModelError(
        f"peft puts no {title} with these numbers on these layers",
        got=f"{told} ({model.config.model_type})",
        expected="method.options that fit the sizes of the layers",
        fix="change method.options or method.target_modules, or set method.kind: lora",
    )


def _check_ranks(model: PreTrainedModel, names: Sequence[str], method: TunerMethod) -> None:
    """Before peft makes what they stand for. names: of the layers that are meant. Raises ModelError for more ranks
    than a layer has a use for."""
    options, tuner = tuner_options(method), TUNERS[method.tuner]
    if tuner.most_ranks is None:
        return
    over, layers = [], {name: model.get_submodule(name) for name in names}
    linear = {
        name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear | Conv1D)
    }  # else peft says
    for name, layer in linear.items():
        outputs, inputs = _shape(layer)
        if options["r"] > (most := tuner.most_ranks(inputs, outputs)):
            over.append((most, f"{name} [{outputs}, {inputs}]"))
    is_named = method.target_modules != ("all-linear",)  # else one may be narrower, such as a gate
    if over and (is_named or len(over) == len(linear)):
        most, name = min(over) if is_named else max(over)
        raise _refusal(tuner.title, model, [], f"{name} has no use for more than r {most}, got {options['r']:g}")


def _check_sizes(adapted: nn.Module, method: TunerMethod) -> None:
    """peft takes another number where one does not divide a layer. Raises ValueError."""
    options, tuner = tuner_options(method), TUNERS[method.tuner]
    for name, layer in adapter_layers(base_model(adapted)):
        outputs, inputs = _shape(layer.get_base_layer())
        expected = tuner.weights(options, inputs, outputs)
        found = sum(p.numel() for p in layer.parameters() if p.requires_grad)
        if found != expected:
            told = ", ".join(f"{option} {value:g}" for option, value in options.items())
            raise ValueError(f"{name} [{outputs}, {inputs}] with {told} gets {found} weights instead of {expected}")


def _shape(layer: nn.Module) -> tuple[int, int]:
    """(outputs, inputs)."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    outputs, inputs = weight.T.shape if isinstance(layer, Conv1D) else weight.shape
    return outputs, inputs
