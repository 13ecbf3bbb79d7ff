"""Which parameters are trained: the table of methods, one module each. The only importers of peft.

What a method is without torch (what it exports, how many parameters it has) stands in recipe/traits.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.model.heads import add_head
from raysft.model.methods import (
    adalora,
    bottleneck,
    dora,
    freeze,
    full,
    ia3,
    lora,
    p_tuning,
    prefix,
    probe,
    prompt,
    tuner,
)
from raysft.model.methods.acts import StepActs
from raysft.model.methods.adapters import (
    adapted_layers,
    base_model,
    is_adapted,
    is_layer_adapted,
    merge,
    merge_layer,
    plain_name,
    unload,
)
from raysft.model.methods.bottleneck import CONFIG as ADAPTER_CONFIG
from raysft.model.methods.bottleneck import WEIGHTS as ADAPTER_WEIGHTS
from raysft.model.methods.bottleneck import put_bottlenecks
from raysft.model.methods.forward import Forward, PlainForward
from raysft.model.methods.four_bit import as_held, check_four_bit, four_bit_packs, hold_in_four_bits, round_as_held
from raysft.model.methods.lora import LowRank, low_rank_adapters
from raysft.model.methods.lora_start import InputDirections, kept_parameters, set_start, start_tensors
from raysft.model.methods.of_weights import OfWeight
from raysft.model.methods.saving import adapter_tensors, keys_lost_by_reload, save_adapter
from raysft.model.methods.virtual_tokens import VirtualTokens
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import METHODS as TRAITS
from raysft.recipe.traits import MethodTraits

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "METHODS",
    "Forward",
    "InputDirections",
    "LowRank",
    "OfWeight",
    "PlainForward",
    "StepActs",
    "adapted_layers",
    "adapter_tensors",
    "apply_method",
    "as_held",
    "base_model",
    "check_four_bit",
    "forward_of",
    "four_bit_packs",
    "hold_in_four_bits",
    "is_adapted",
    "is_layer_adapted",
    "kept_parameters",
    "keys_lost_by_reload",
    "low_rank_adapters",
    "merge",
    "merge_layer",
    "of_weights",
    "plain_name",
    "put_bottlenecks",
    "round_as_held",
    "save_adapter",
    "set_start",
    "start_tensors",
    "step_acts",
    "unload",
]


@dataclass(frozen=True)
class Method:
    """One kind of method."""

    traits: MethodTraits
    attach: Callable[[PreTrainedModel, Recipe], nn.Module]
    """Puts it on a model: what is trained requires grad afterwards, nothing else does."""
    acts: Callable[[nn.Module, Any, int], StepActs | None] | None = None
    """(module of attach, the recipe's section, steps of the run) -> what it does in each step; None: nothing."""
    forward: Callable[[nn.Module], Forward] | None = None
    """Module of attach -> what runs instead of the model alone; None: its adapters lie in the model's layers."""
    begin: Callable[[nn.Module, Recipe], dict[str, Tensor]] | None = None
    """Module of attach -> {HF name: what it begins with} where that lies in files; None: it does in none."""
    of_weights: Callable[[nn.Module], list[OfWeight]] = lambda module: []
    """Module of attach -> what of it is computed of the base's weights. Anything else must not be: of a model in
    outline it would be computed of placeholders, and is refused (outline.py)."""


METHODS: dict[str, Method] = {
    "full": Method(TRAITS["full"], full.attach),
    "freeze": Method(TRAITS["freeze"], freeze.attach, freeze.unfreezing),
    "probe": Method(TRAITS["probe"], probe.attach),
    "lora": Method(TRAITS["lora"], lora.attach),
    "dora": Method(TRAITS["dora"], dora.attach, of_weights=dora.magnitudes),
    "ia3": Method(TRAITS["ia3"], ia3.attach),
    "adalora": Method(TRAITS["adalora"], adalora.attach, adalora.RankAllocation),
    "tuner": Method(TRAITS["tuner"], tuner.attach),
    "prompt": Method(TRAITS["prompt"], prompt.attach, forward=VirtualTokens, of_weights=prompt.rows),
    "p_tuning": Method(TRAITS["p_tuning"], p_tuning.attach, forward=VirtualTokens),
    "prefix": Method(TRAITS["prefix"], prefix.attach, forward=prefix.Prefix),
    "bottleneck": Method(TRAITS["bottleneck"], bottleneck.attach, begin=bottleneck.begin),
}
"""{method.kind: what acts for it}."""


def apply_method(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model ready for training, with its objective's own head: trained parameters require grad, no others do."""
    module = METHODS[recipe.method.kind].attach(model, recipe)
    add_head(base_model(module), recipe)
    return module


def of_weights(module: nn.Module, recipe: Recipe) -> list[OfWeight]:
    """What a module of apply_method computes of its base's weights to begin with."""
    return METHODS[recipe.method.kind].of_weights(module)


def step_acts(module: nn.Module, recipe: Recipe, total_steps: int) -> StepActs | None:
    """What the recipe's method does in each step of a run besides the optimizer. module: of apply_method."""
    acts = METHODS[recipe.method.kind].acts
    return acts(module, recipe.method, total_steps) if acts else None


def forward_of(module: nn.Module, recipe: Recipe) -> Forward:
    """How a module of apply_method turns rows into hidden states."""
    own = METHODS[recipe.method.kind].forward
    return PlainForward(base_model(module)) if own is None else own(module)
