"""The trained model of a run, its adapters merged layer by layer as its weights are asked for.

Neither the base nor the merged model is ever whole in memory (decision 037): what is trained comes from a checkpoint,
the rest from the base's files, one tensor at a time. What cannot be outlined is made whole, in fp32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.errors import CheckpointError
from raysft.model.decoder import task_head
from raysft.model.heads import AUXILIARY
from raysft.model.load import dtypes_as_loaded, load_model
from raysft.model.methods import (
    adapter_tensors,
    apply_method,
    as_held,
    base_model,
    kept_parameters,
    merge,
    merge_layer,
    plain_name,
    round_as_held,
    save_adapter,
    unload,
)
from raysft.model.outline import Outline, WholeOnlyError, outline, placeholder
from raysft.model.spread import Room, spread, unlimited
from raysft.model.stacked import Source
from raysft.recipe.schema import Recipe

logger = logging.getLogger(__name__)

Weights = Mapping[str, Tensor]
"""{HF name of a trained parameter: its fp32 weight}; a mapping may read each when it is asked for."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""{train.precision: of exported and evaluated weights}."""

CPU = torch.device("cpu")
WHOLE = unlimited(CPU)
"""All of it in host memory."""


class Trained:
    """A model whose weights are read when they are asked for, its adapters apart."""

    def __init__(self, recipe: Recipe, weights: Weights, *, vocab_size: int) -> None:
        """Raises WholeOnlyError, ModelError; CheckpointError where weights do not fit the model."""
        found = outline(recipe, vocab_size=vocab_size, device=CPU, is_begun=True)
        rounded = as_held(found.model, recipe)
        self.module, self._recipe = apply_method(found.model, recipe), recipe
        self._sources = _stored_sources(base_model(self.module), found, rounded)
        trained = trained_parameters(self.module)
        check_names(trained, weights)
        head = task_head(base_model(self.module))
        own = set() if head is None else set(head.parameters())  # no base has it, and it is a tensor of the export
        for name, parameter in trained.items():
            if parameter in self._sources or parameter in own:
                self._sources[parameter] = _asking(weights, name, parameter.shape)
            else:  # an adapter's
                parameter.data = fitting(weights, name, parameter.shape)
        for name, parameter in self.module.named_parameters():
            is_known = parameter in self._sources or name in trained
            if not is_known and not bool(torch.isfinite(parameter).all()):
                raise WholeOnlyError(f"its method computes {name} from its weights")

    def read(self, parameter: nn.Parameter) -> Tensor:
        """In fp32; one that is no placeholder as it is. Raises ModelError, CheckpointError, StorageError."""
        source = self._sources.get(parameter)
        return source() if source else parameter.data

    def save_adapter(self, directory: str, pad_token_id: int | None) -> None:
        """The bare adapter. Before `merged`."""
        saved = {tensor.data_ptr() for tensor in adapter_tensors(self.module).values()}
        with self._there(p for p in self._sources if p.data_ptr() in saved):
            save_adapter(self.module, directory, self._recipe, pad_token_id)

    def merged(self) -> Merged:
        """The model without adapters. The last thing to be asked for."""
        model, layers = unload(self.module)
        return Merged(model, self, {p: (layer, adapters) for layer, adapters in layers.items() for p in _own(layer)})

    @contextmanager
    def _there(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Their weights are in memory inside."""
        before = {parameter: parameter.data for parameter in parameters if parameter in self._sources}
        for parameter in before:
            parameter.data = self._sources[parameter]()
        yield
        for parameter, data in before.items():
            parameter.data = data

    def merge_layer(self, layer: nn.Module, adapters: list[Any]) -> dict[nn.Parameter, Tensor]:
        """The weights of a layer with its adapters added: fp32."""
        with self._there(_own(layer)):
            merge_layer(adapters)
            return {parameter: parameter.data for parameter in _own(layer)}


@dataclass
class Merged:
    """A model of placeholders, adapters taken out; its weights, one after another."""

    model: PreTrainedModel
    _trained: Trained
    _adapted: Mapping[nn.Parameter, tuple[nn.Module, list[Any]]]
    _last: tuple[nn.Module | None, dict[nn.Parameter, Tensor]] = (None, {})
    """The layer that was merged last: its weight, its bias and all its experts are asked for one after another."""

    def read(self, parameter: nn.Parameter) -> Tensor:
        """What a parameter of the model becomes, in fp32. Raises ModelError, CheckpointError, StorageError."""
        layer, adapters = self._adapted.get(parameter, (None, []))
        if self._last[0] is not layer:
            self._last = (None, {})  # free before the next is read
        if layer is None:
            return self._trained.read(parameter)
        if self._last[0] is None:
            self._last = (layer, self._trained.merge_layer(layer, adapters))
        return self._last[1][parameter]

    def cast(self, dtypes: Mapping[str, torch.dtype]) -> None:
        """Give placeholders and buffers the precision that they will have: {name: dtype}."""
        for name, parameter in self.model.named_parameters():
            parameter.data = placeholder(parameter.shape, CPU, dtypes[name])
        for name, buffer in self.model.named_buffers():
            buffer.data = buffer.data.to(dtypes[name])


def load_trained(recipe: Recipe, weights: Weights, *, vocab_size: int, room: Room = WHOLE) -> PreTrainedModel:
    """A run's model, merged, in the precision of its training. Raises ModelError, CheckpointError."""
    try:
        merged = Trained(recipe, weights, vocab_size=vocab_size).merged()
        return _laid(merged.model, recipe, room, merged.read)
    except WholeOnlyError as reason:
        tell_whole("evaluation", reason)
        return _laid(merge(rebuild(recipe, weights, vocab_size=vocab_size)), recipe, room)


def load_adapted(recipe: Recipe, weights: Weights, *, vocab_size: int, room: Room = WHOLE) -> nn.Module:
    """A run's model with its adapter beside it, which cannot be merged: to be used through methods.forward_of.

    In the precision of its training. Raises ModelError, CheckpointError.
    """
    try:
        trained = Trained(recipe, weights, vocab_size=vocab_size)
        module = trained.module
        _laid(base_model(module), recipe, room, trained.read)
    except WholeOnlyError as reason:
        tell_whole("evaluation", reason)
        module = rebuild(recipe, weights, vocab_size=vocab_size)
        _laid(base_model(module), recipe, room)
    for parameter in trained_parameters(module).values():
        parameter.data = parameter.data.to(room.main, DTYPES[recipe.train.precision])
    return module.train(False)


def load_untrained(
    recipe: Recipe,
    *,
    vocab_size: int,
    room: Room = WHOLE,
    begin: Callable[[PreTrainedModel], None] = lambda model: None,
    dtypes: Callable[[PreTrainedModel, torch.dtype], dict[str, torch.dtype]] = dtypes_as_loaded,
) -> PreTrainedModel:
    """A recipe's model before training, in the precision of its training. Raises ModelError.

    begin: what is changed of its modules before it has weights. dtypes: what each parameter and buffer is cast to.
    """
    dtype = DTYPES[recipe.train.precision]
    try:
        found = outline(recipe, vocab_size=vocab_size, device=room.main, is_begun=True)
        sources = _stored_sources(found.model, found, as_held(found.model, recipe))
        begin(found.model)
        return spread(found.model, lambda parameter: sources[parameter](), dtypes(found.model, dtype), room)
    except WholeOnlyError as reason:
        tell_whole("evaluation", reason)
        model = load_model(recipe, vocab_size=vocab_size)
        round_as_held(model, recipe)
        begin(model)
        return spread(model, attrgetter("data"), dtypes(model, dtype), room)


def _laid(
    model: PreTrainedModel, recipe: Recipe, room: Room, read: Callable[[nn.Parameter], Tensor] = attrgetter("data")
) -> PreTrainedModel:
    """A model with all its weights, cast one by one as they are read; without read, those that it has."""
    return spread(model, read, dtypes_as_loaded(model, DTYPES[recipe.train.precision]), room)


def tell_whole(what: str, reason: WholeOnlyError) -> None:
    """Say that a step holds the whole model."""
    logger.warning("%s: the whole model is held in fp32: %s", what, reason)


def rebuild(recipe: Recipe, weights: Weights | Iterable[tuple[str, Tensor]], *, vocab_size: int) -> nn.Module:
    """The recipe's model, whole (fp32, CPU), with trained weights, adapters still apart. Raises CheckpointError."""
    weights = by_name(weights)
    model = load_model(recipe, vocab_size=vocab_size)
    round_as_held(model, recipe)
    module = apply_method(model, recipe)
    trained = trained_parameters(module)
    check_names(trained, weights)
    for name, parameter in trained.items():
        parameter.data.copy_(fitting(weights, name, parameter.shape))
    return module


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Those that a checkpoint holds, by HF name: what requires grad, and the start of adapters that is kept."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    return trained | kept_parameters(module)


def by_name(weights: Weights | Iterable[tuple[str, Tensor]]) -> Weights:
    """Weights that come one after another, in a mapping. Raises CheckpointError for one that is given twice."""
    if isinstance(weights, Mapping):
        return weights
    found: dict[str, Tensor] = {}
    for name, tensor in weights:
        if name in found:
            raise _does_not_fit(f"the weight {name} is given twice", got=name, expected="each trained parameter once")
        found[name] = tensor
    return found


def check_names(trained: Mapping[str, nn.Parameter], weights: Weights) -> None:
    """Is there a weight of each trained parameter and no other, but for those of an objective's second head, which
    stands beside the model? Raises CheckpointError."""
    for name in weights:
        if name not in trained and not name.startswith(AUXILIARY):
            what = f"the weight {name} is no trained parameter of this model"
            raise _does_not_fit(what, got=name, expected="each trained parameter once")
    if missing := sorted(trained.keys() - weights.keys()):
        raise _does_not_fit(
            f"{len(missing)} trained parameter(s) have no weight",
            got=f"{len(trained) - len(missing)} of {len(trained)}; missing: {', '.join(missing[:3])}",
            expected="each trained parameter once",
        )


def fitting(weights: Weights, name: str, shape: torch.Size) -> Tensor:
    """A weight of this shape, in fp32. Raises CheckpointError."""
    tensor = weights[name]
    if tensor.shape != shape:
        raise _does_not_fit(
            f"the weight {name} has another shape", got=str(list(tensor.shape)), expected=str(list(shape))
        )
    return tensor.float()


def _stored_sources(
    model: PreTrainedModel, found: Outline, rounded: Callable[[nn.Parameter, Tensor], Tensor]
) -> dict[nn.Parameter, Callable[[], Tensor]]:
    """From where each parameter of an outlined model, with adapters or without, is read. Raises WholeOnlyError.

    rounded: of as_held.
    """
    named = {plain_name(name): parameter for name, parameter in model.named_parameters(remove_duplicate=False)}
    if lost := sorted(found.stored.keys() - named.keys()):
        raise WholeOnlyError(f"its method takes {lost[0]} out of the model")
    for name in found.stored:  # a head that was parted from the embedding is no placeholder any more
        named[name].data = placeholder(named[name].shape, CPU)
    return {named[name]: _reading(stored, named[name], rounded) for name, stored in found.stored.items()}


def _asking(weights: Weights, name: str, shape: torch.Size) -> Callable[[], Tensor]:
    return lambda: fitting(weights, name, shape)


def _reading(
    stored: Source, parameter: nn.Parameter, rounded: Callable[[nn.Parameter, Tensor], Tensor]
) -> Callable[[], Tensor]:
    def read() -> Tensor:
        value = torch.empty(stored.shape)
        stored.read(value.view(-1))
        return rounded(parameter, value)

    return read


def _own(layer: nn.Module) -> list[nn.Parameter]:
    return list(layer.parameters())


def _does_not_fit(what: str, *, got: str, expected: str) -> CheckpointError:
    fix = "export with the recipe that made the checkpoint (model, method.rank, method.target_modules)"
    return CheckpointError(what, got=got, expected=expected, fix=fix)
