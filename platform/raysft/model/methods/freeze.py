"""Some decoder layers and named parameters are trained, the rest of the model is left as it is."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.decoder import decoder_layers, unread
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import FreezeMethod


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model itself. Raises ModelError for layers and names that it does not have."""
    method = recipe.method
    assert isinstance(method, FreezeMethod)
    model.requires_grad_(False)
    for layer in _layers(model, method.layers):
        layer.requires_grad_(True)
    of_text = dict(model.named_parameters())
    for name in unread(model):  # no text passes it
        of_text = {other: p for other, p in of_text.items() if not other.startswith(f"{name}.")}
    for pattern in method.parameters:
        found = [parameter for name, parameter in of_text.items() if fnmatchcase(name, pattern)]
        if not found:
            raise _no_parameter(pattern, list(of_text))
        for parameter in found:
            parameter.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            "method.kind: freeze leaves nothing to be trained",
            got="method.layers: 0, no method.parameters",
            expected="layers, or names of parameters",
            fix="set method.layers: 2, or method.parameters: lm_head.*",
        )
    return model


def _layers(model: PreTrainedModel, wanted: int) -> list[nn.Module]:
    """So many last decoder layers; below 0, first ones."""
    if not wanted:
        return []
    layers = decoder_layers(model)
    if abs(wanted) > len(layers):
        raise ModelError(
            "method.layers asks for more decoder layers than the model has",
            got=f"method.layers: {wanted}",
            expected=f"at most {len(layers)}, or at least -{len(layers)}",
            fix="lower it, or set method.kind: full",
        )
    return layers[-wanted:] if wanted > 0 else layers[:-wanted]


def _no_parameter(pattern: str, names: list[str]) -> ModelError:
    known = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    return ModelError(
        "a name in method.parameters fits no parameter",
        got=pattern,
        expected=f"a name, or a pattern, of {', '.join(list(known)[:20])}",
        fix="mend method.parameters",
    )
