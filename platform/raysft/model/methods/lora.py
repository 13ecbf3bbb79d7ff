"""LoRA: low-rank adapters (Hu et al. 2021, arXiv:2106.09685), those of experts too; DoRA (Liu et al. 2024)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.fast.low_rank import use_low_rank
from raysft.model.methods.adapters import (
    adapted_layers,
    adapter_layers,
    base_model,
    check_ranks,
    no_layer,
    refuse_experts,
    settled,
    task_type,
    untie,
)
from raysft.model.methods.lora_start import RESIDUAL, add_start
from raysft.model.targets import expert_parameters, missing_targets, unfit_layers
from raysft.recipe.adapter_sizes import by_place, ends_in
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import DoraMethod, LoraMethod, LowRankMethod

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True)
class LowRank:
    """The adapter of one layer: it adds scaling * B A dropout(x) (Hu et al. 2021, arXiv:2106.09685)."""

    a: torch.Tensor
    """[R, D]."""
    b: torch.Tensor
    """[O, R]."""
    scaling: float
    dropout: float
    """Probability of a zero in the adapter's input."""


def low_rank_adapters(module: nn.Module) -> dict[str, LowRank]:
    """{name of a layer in the base model: its adapter} of a model with LoRA. Raises ModelError for other layers."""
    from peft.tuners.lora.layer import LoraLayer

    names = {id(inner): name for name, inner in base_model(module).named_modules()}
    found = {}
    for layer in module.modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = names[id(layer)]
        a, b = (dict(matrices).get("default") for matrices in (layer.lora_A, layer.lora_B))
        if not isinstance(a, nn.Linear) or not isinstance(b, nn.Linear):
            raise ModelError(
                "the adapter of this layer has no two matrices",
                got=f"{name}, a {type(layer).__name__}",
                expected="adapted linear layers",
                fix="take it out of method.target_modules",
            )
        dropout = layer.lora_dropout["default"]
        found[name] = LowRank(
            a=a.weight,
            b=b.weight,
            scaling=float(layer.scaling["default"]),
            dropout=dropout.p if isinstance(dropout, nn.Dropout) else 0.0,
        )
    return found


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model with fresh adapters: B is zero, so that it computes what it did. Raises ModelError.

    What is computed to begin with is set afterwards (lora_start.py); nor does that change what the model computes.
    """
    from peft import LoraConfig, get_peft_model  # 4 s to import: only where it is used
    from peft.tuners.lora.layer import Linear

    method = recipe.method
    assert isinstance(method, LowRankMethod)
    targets: str | list[str] = list(method.target_modules)
    if targets == ["all-linear"]:
        targets = "all-linear"
        if isinstance(method, DoraMethod):
            refuse_experts(model, "DoRA")
    unfit = unfit_layers(model, targets)
    alpha: Any = method.alpha  # peft says int, and divides it
    config = LoraConfig(
        r=method.rank,
        lora_alpha=alpha,
        rank_pattern=by_place(method.ranks),
        alpha_pattern=by_place(method.alphas),
        lora_dropout=method.dropout,
        use_rslora=method.rslora,
        use_dora=isinstance(method, DoraMethod),
        target_modules=targets,
        exclude_modules=unfit or None,
        task_type=task_type(model),
    )
    generator_state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    try:
        _check_names(config, model, method, unfit)
        with settled():
            adapted: nn.Module = get_peft_model(model, config)
        _check_patterns(adapted, method)
        if isinstance(method, LoraMethod) and method.init in RESIDUAL:
            add_start(adapted, method)
        check_ranks(adapted, is_named=targets != "all-linear", ranks=method.ranks)
    except ValueError as error:
        raise _cannot_adapt(model, method, " ".join(str(error).split())[:200]) from error
    finally:
        torch.set_rng_state(generator_state)
    untie(base_model(adapted))
    if model.device.type == "cuda":
        use_low_rank(layer for _, layer in adapter_layers(base_model(adapted)) if type(layer) is Linear)
    return adapted


def _check_names(config: LoraConfig, model: PreTrainedModel, method: LowRankMethod, unfit: Sequence[str]) -> None:
    """Every name must fit a layer that can be adapted, or less would be trained than is said. Raises ModelError.

    Under all-linear the experts of a mixture are adapted where they are parameters [experts, ...] and no layers. peft
    does so by itself for the types that it knows in an older form (Mixtral, Qwen3-MoE, DeepSeek), by the names of
    that form; ValueError: some of these names go together.
    """
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    known = copy.deepcopy(config)
    convert_peft_config_for_transformers(known, model, None)
    if method.target_modules == ("all-linear",):
        if not known.target_parameters:
            config.target_parameters = expert_parameters(model) or None
    elif missing := missing_targets(model, sorted(known.target_modules or ()), unfit):
        raise no_layer(model, method.target_modules, f"no layer is named {', '.join(missing)}")


def _check_patterns(adapted: nn.Module, method: LowRankMethod) -> None:
    """A name of another rank or alpha must fit an adapted layer, and be the first to: peft passes over it. Raises
    ModelError."""
    names = adapted_layers(adapted)
    known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
    for field, pattern in (("ranks", by_place(method.ranks)), ("alphas", by_place(method.alphas))):
        if lost := [name for name in pattern if not any(ends_in(layer, (name,)) for layer in names)]:
            raise ModelError(
                f"method.{field} names what has no adapter",
                got=", ".join(lost),
                expected=f"some of {known}",
                fix=f"mend method.{field}, or add the layer to method.target_modules",
            )
        used = {next((name for name in pattern if ends_in(layer, (name,))), "") for layer in names}
        if unused := [name for name in pattern if name not in used]:
            raise ModelError(
                f"method.{field} says the same layers twice",
                got=f"{', '.join(unused)}: all of its layers have names in it that say more",
                expected="for each name a layer that no longer name fits",
                fix=f"take {unused[0]} out of method.{field}",
            )


def _cannot_adapt(model: PreTrainedModel, method: LowRankMethod, told: str) -> ModelError:
    if "lora_dropout" in told:
        return ModelError(
            "the adapters of a mixture's experts take no dropout",
            got=f"method.dropout = {method.dropout}, a {model.config.model_type} model",
            expected="method.dropout: 0, or target modules that are no experts",
            fix="set method.dropout: 0, or name the attention's layers in method.target_modules",
        )
    return no_layer(model, method.target_modules, told)
