"""A probe: the model is frozen, and the head that its objective puts on it is trained (heads.py)."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from raysft.recipe.schema import Recipe


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model itself."""
    del recipe  # a probe has no fields
    model.requires_grad_(False)
    return model
