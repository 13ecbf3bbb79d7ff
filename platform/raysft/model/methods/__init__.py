"""Which parameters are trained: the table of methods, one module each. The only importers of peft.

What a method is without torch (what it exports, how many parameters it has) stands in recipe/traits.py.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel

from raysft.model.methods import full, ia3, lora
from raysft.model.methods.adapters import (
    adapted_layers,
    base_model,
    is_adapted,
    is_layer_adapted,
    keys_lost_by_reload,
    merge,
    plain_name,
    save_adapter,
)
from raysft.model.methods.lora import LowRank, low_rank_adapters
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import METHODS as TRAITS
from raysft.recipe.traits import MethodTraits

__all__ = [
    "METHODS",
    "LowRank",
    "adapted_layers",
    "apply_method",
    "base_model",
    "is_adapted",
    "is_layer_adapted",
    "keys_lost_by_reload",
    "low_rank_adapters",
    "merge",
    "plain_name",
    "save_adapter",
]

Attach = Callable[[PreTrainedModel, Recipe], nn.Module]

METHODS: dict[str, tuple[MethodTraits, Attach]] = {
    "full": (TRAITS["full"], full.attach),
    "lora": (TRAITS["lora"], lora.attach),
    "ia3": (TRAITS["ia3"], ia3.attach),
}
"""{method.kind: (what it is, what puts it on a model)}."""


def apply_method(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model ready for training: its trained parameters require grad, the others do not."""
    _, attach = METHODS[recipe.method.kind]
    return attach(model, recipe)
