"""All parameters are trained, but for those that no text passes."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from raysft.model.decoder import unread
from raysft.recipe.schema import Recipe


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model itself."""
    del recipe  # a full method has no fields
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for tower in unread(model).values():  # no text passes it: only weight decay would reach it
        tower.requires_grad_(False)
    return model
