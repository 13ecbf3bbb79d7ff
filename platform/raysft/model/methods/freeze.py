"""Some decoder layers and named parameters are trained, the rest of the model is left as it is.

Gradual unfreezing (Howard & Ruder 2018, arXiv:1801.06146): a layer that has not joined yet has no gradient. The
optimizer holds all of them from the first step; a mean of zeros moves nothing, and weight decay is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.decoder import decoder_layers, unread
from raysft.model.methods.acts import Parameters
from raysft.recipe.objective_traits import embeds, head_of
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import FreezeMethod


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model itself. Raises ModelError for layers and names that it does not have."""
    method = recipe.method
    assert isinstance(method, FreezeMethod)
    model.requires_grad_(False)
    for layer in _layers(model, method):
        layer.requires_grad_(True)
    of_text = dict(model.named_parameters(remove_duplicate=False))  # lm_head, where it is the embedding
    for name in unread(model):  # no text passes it
        of_text = {other: p for other, p in of_text.items() if not other.startswith(f"{name}.")}
    unread_head = {name for name, p in of_text.items() if any(p is one for one in _unread_head(model, recipe))}
    of_text = {name: p for name, p in of_text.items() if name not in unread_head}
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


class Unfreezing:
    """The StepActs of gradual unfreezing."""

    def __init__(self, module: nn.Module, method: FreezeMethod, total_steps: int) -> None:
        """module: as attach gave it."""
        assert isinstance(module, PreTrainedModel)
        assert method.unfreeze_every_steps is not None
        self._every = method.unfreeze_every_steps
        waiting = {
            parameter: name
            for name, parameter in module.named_parameters()
            if not any(fnmatchcase(name, pattern) for pattern in method.parameters)
        }
        self._layers = [
            {waiting[parameter]: tuple(parameter.shape) for parameter in layer.parameters() if parameter in waiting}
            for layer in reversed(_layers(module, method))
        ]
        """{name: shape} of what joins with each layer, in their order."""

    def before_update(self, step: int, parameters: Parameters) -> None:
        """Zeros for what has not joined."""
        for layer in self._layers[1 + step // self._every :]:
            for name, shape in layer.items():
                parameters.set_gradient(name, torch.zeros(shape))

    def after_update(self, step: int, parameters: Parameters) -> None:
        """Nothing."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Nothing: the step says all."""
        yield from ()

    def restore(self, saved: Callable[[str], Tensor]) -> None:
        """Nothing."""


def unfreezing(module: nn.Module, method: FreezeMethod, total_steps: int) -> Unfreezing | None:
    """What freezing does in a step: nothing, where all layers are trained from the first one."""
    return Unfreezing(module, method, total_steps) if method.unfreeze_every_steps else None


def _layers(model: PreTrainedModel, method: FreezeMethod) -> list[nn.Module]:
    """The decoder layers that are trained, in their order. Raises ModelError."""
    layers = decoder_layers(model) if method.num_layers else []
    chosen = method.of(len(layers)) if method.num_layers else []
    if chosen is None:
        raise ModelError(
            "method.layers asks for decoder layers that the model has not",
            got=f"method.layers: {method.layers}",
            expected=f"at most {len(layers)}, or at least -{len(layers)}; by numbers, some of 0-{len(layers) - 1}",
            fix="mend it, or set method.kind: full",
        )
    return [layers[number] for number in chosen]


def _unread_head(model: PreTrainedModel, recipe: Recipe) -> list[nn.Parameter]:
    """The weights of an LM head that are nothing else's, where the objective reads none."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if not (head_of(recipe) or embeds(recipe)) or not isinstance(head, nn.Module):
        return []
    return [one for one in head.parameters() if all(one is not other for other in embedding.parameters())]


def _no_parameter(pattern: str, names: list[str]) -> ModelError:
    names = sorted(names, key=lambda name: not fnmatchcase(name.lower(), pattern.lower()))  # nearly so: first
    known = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    return ModelError(
        "a name in method.parameters fits no parameter",
        got=repr(pattern),
        expected=f"a name, or a pattern, of {', '.join(list(known)[:20])}",
        fix="mend method.parameters",
    )
