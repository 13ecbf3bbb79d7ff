"""A model without its weights, and from where in which file each of them is to be read, or how it is made.

So a rank reads what it keeps and nothing else (decision 034). transformers loads a dictionary of placeholders:
tensors of the right shape whose one number all elements share. Which placeholder a parameter then holds says from
which tensor of the files it comes, renamed and tied as transformers does it. A model of which that cannot be said is
loaded whole.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightTransform
from transformers.utils import logging as transformers_logging

from raysft.model.backend import attention_backend
from raysft.model.encoder import trains_encoder
from raysft.model.facts import UNUSABLE, check_vocabulary, load_config
from raysft.model.files import model_location, refuse_other_weights, weight_files
from raysft.model.fresh import UnknownStepError, put
from raysft.model.load import base_generation_config, fresh_model
from raysft.model.methods import OfWeight, base_model, four_bit_packs, plain_name
from raysft.model.stacked import Source, sources
from raysft.model.stored import StoredTensor, stored_tensors
from raysft.recipe.schema import Recipe


class WholeOnlyError(Exception):
    """Why a model is loaded whole."""


@dataclass(frozen=True)
class Outline:
    """A model whose parameters are placeholders in fp32; its buffers are there."""

    model: PreTrainedModel
    stored: Mapping[str, Source]
    """{name of a parameter: where its numbers are}, tied ones under each of their names."""


class Unread:
    """The parameters of a module that are still placeholders, and what they are read from."""

    def __init__(
        self, module: nn.Module, outline: Outline, twin: PreTrainedModel, computed: Sequence[OfWeight] = ()
    ) -> None:
        """module: the outline's model after its method was applied. computed: of `of_weights`. Raises
        WholeOnlyError."""
        self.twin = twin
        """A small model of the same kind with the same fast paths: what a check of the computation runs on."""
        self.computed = computed
        """What is yet to be computed of what is read."""
        names = [
            (plain_name(name), parameter)
            for name, parameter in base_model(module).named_parameters(remove_duplicate=False)
        ]
        if lost := outline.stored.keys() - {name for name, _ in names}:
            raise WholeOnlyError(f"its method takes {sorted(lost)[0]} out of the model")
        self._stored = {parameter: outline.stored[name] for name, parameter in names if name in outline.stored}
        self._packs = four_bit_packs(module)
        known = self._stored.keys() | {one.parameter for one in computed if one.weight in self._stored}
        for name, parameter in module.named_parameters():
            if parameter not in known and not bool(torch.isfinite(parameter).all()):
                raise WholeOnlyError(f"its method computes {name} from its weights")

    def __contains__(self, parameter: nn.Parameter) -> bool:
        return parameter in self._stored

    def __len__(self) -> int:
        return len(self._stored)

    def take(self, parameter: nn.Parameter) -> Source:
        """What a parameter is read from; it is then no longer one of these."""
        return self._stored.pop(parameter)

    def source(self, parameter: nn.Parameter) -> Source:
        """What a parameter is read from; it stays one of these."""
        return self._stored[parameter]

    def pack(self, parameter: nn.Parameter) -> Callable[[Tensor], None] | None:
        """What gives a parameter that is packed (4 bits) its numbers, whole and in fp32; None: it is kept as read."""
        return self._packs.get(parameter)

    def forget(self) -> None:
        """The others are those of other ranks."""
        self._stored.clear()


def outline(recipe: Recipe, *, vocab_size: int, device: torch.device, is_begun: bool = False) -> Outline:
    """The model of a recipe without its weights, on a device. vocab_size: as of load_model.

    is_begun: what is trained comes from a checkpoint, or nothing is trained: no small model is checked in its place.
    Raises WholeOnlyError where the model must be loaded whole, or cannot be loaded at all.
    """
    transformers_logging.disable_progress_bar()
    if recipe.model.source == "random":
        model, made = _fresh(recipe, vocab_size, is_begun=is_begun)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(device)
        put(model, lambda name, parameter: placeholder(parameter.shape, device))
        return Outline(_as_loaded(recipe, model, vocab_size), made)
    model_class, config, tensors, conversions = _found(recipe, is_begun=is_begun)
    placeholders = {name: placeholder(tensor.shape, torch.device("cpu")) for name, tensor in tensors.items()}
    try:
        loaded: Any = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(placeholders),
            dtype=torch.float32,
            attn_implementation=attention_backend(recipe, config),
            output_loading_info=True,
        )
    except (OSError, *UNUSABLE) as error:
        raise WholeOnlyError(f"transformers: {' '.join(str(error).split())[:200]}") from error
    model = loaded[0]
    if has_conversions(model):
        raise WholeOnlyError(f"transformers computes tensors of a {config.model_type} from those in its files")
    if missing := sorted(loaded[1]["missing_keys"]):
        raise WholeOnlyError(f"{missing[0]} is not in its files")
    loaded[0]._weight_conversions = conversions  # what save_pretrained undoes; stacks are placeholders as such
    _as_loaded(recipe, model, vocab_size)
    model.config.name_or_path = model.name_or_path = model_location(recipe)
    if model.can_generate():
        model.generation_config = base_generation_config(recipe) or model.generation_config
    origin = {tensor.data_ptr(): tensors[name] for name, tensor in placeholders.items()}
    _fill_buffers(model, origin, device)
    return Outline(model, _put_on(model, origin, device))


def is_placeholder(tensor: Tensor) -> bool:
    """Is it one?"""
    return tensor.numel() > 1 and not any(tensor.stride())


def why_whole(recipe: Recipe, *, vocab_size: int) -> str | None:
    """Why workers will load a model whole that is fresh or whose directory is here; None: not known, or not so.
    vocab_size: as of load_model."""
    is_fresh = recipe.model.source == "random"
    if not is_fresh and not os.path.isdir(model_location(recipe)):
        return None
    try:
        if is_fresh:
            _fresh(recipe, vocab_size, is_begun=False)
        else:
            _found(recipe)
    except WholeOnlyError as reason:
        return str(reason)
    return None


def _found(
    recipe: Recipe, *, is_begun: bool = False
) -> tuple[Any, PretrainedConfig, dict[str, Source], list[WeightTransform]]:
    """Class, config, and `sources` of a model that can be outlined. Raises WholeOnlyError, ModelError."""
    location, config = model_location(recipe), load_config(recipe)
    refuse_other_weights(location, recipe.model.revision)
    model_class, config = _model_class(recipe, config)
    tensors = _tensors(weight_files(location, recipe.model.revision))
    with torch.device("meta"):
        empty = model_class._from_config(copy.deepcopy(config))
    _check_twin(empty, is_begun=is_begun)
    try:
        return model_class, config, *sources(tensors, empty)
    except ValueError as error:
        raise WholeOnlyError(str(error)) from error


def _fresh(recipe: Recipe, vocab_size: int, *, is_begun: bool) -> tuple[PreTrainedModel, dict[str, Any]]:
    """`fresh_model` of one that can be outlined. Raises WholeOnlyError, ModelError."""
    _model_class(recipe, load_config(recipe))
    try:
        model, made = fresh_model(recipe, vocab_size=vocab_size)
    except UnknownStepError as error:
        raise WholeOnlyError(str(error)) from error
    _check_twin(model, is_begun=is_begun)
    return model, dict(made)


def _check_twin(model: PreTrainedModel, *, is_begun: bool) -> None:
    if model.config.get_text_config() is not model.config and not is_begun:
        raise WholeOnlyError("it reads more than text, which no small model of its kind does")


def _as_loaded(recipe: Recipe, model: PreTrainedModel, vocab_size: int) -> PreTrainedModel:
    """What load_model checks and sets. Raises ModelError."""
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, Tensor)
    check_vocabulary(recipe, embedding.shape[0], vocab_size)
    model.config.use_cache = False
    return model


def placeholder(shape: torch.Size, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor that takes the memory of one number, which is none: what is computed of it is none either."""
    return torch.full((), torch.nan, dtype=dtype, device=device).expand(shape)


def has_conversions(model: PreTrainedModel) -> bool:
    """Did transformers compute tensors of the model from those in its files?"""
    used: Any = model._weight_conversions
    return any(isinstance(conversion, WeightConverter) for conversion in used or ())


def _model_class(recipe: Recipe, config: PretrainedConfig) -> tuple[Any, PretrainedConfig]:
    """The class that AutoModelForCausalLM takes for a config, and the config that it takes. Raises WholeOnlyError."""
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    fields = vars(config)
    if trains_encoder(recipe, config):
        raise WholeOnlyError("an encoder is read by transformers, with or without a new head")
    if found is None or isinstance(found, tuple) or recipe.model.trust_remote_code:
        raise WholeOnlyError("its class is not one of transformers' own")
    for name in ("quantization_config", "fusion_config"):
        if fields.get(name) is not None:
            raise WholeOnlyError(f"its config has a {name}")
    if type(config).extra_files:
        raise WholeOnlyError("its class has files besides the weights")
    text_class = config.sub_configs.get("text_config")
    return found, config.get_text_config() if text_class is not None and found.config_class is text_class else config


def _tensors(paths: list[str]) -> dict[str, StoredTensor]:
    """All tensors of the files. Raises WholeOnlyError, ModelError."""
    if not paths:
        raise WholeOnlyError("it has no safetensors")
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        for name, tensor in stored_tensors(path).items():
            if isinstance(tensor, str):
                raise WholeOnlyError(f"{name} holds numbers of kind {tensor}")
            if not tensor.shape.numel():
                raise WholeOnlyError(f"{name} is empty")
            if name in tensors:
                raise WholeOnlyError(f"{name} is in two of its files")
            tensors[name] = tensor
    return tensors


def _fill_buffers(model: PreTrainedModel, origin: Mapping[int, Source], device: torch.device) -> None:
    """Buffers that are stored are read, all are put on the device. Raises WholeOnlyError, ModelError."""
    for name, buffer in model.named_buffers():
        stored = origin.get(buffer.data_ptr()) if buffer.numel() else None
        if stored is not None:
            value = torch.empty(buffer.shape, dtype=buffer.dtype)
            _check_shape(name, buffer, stored)
            stored.read(value.view(-1))
            buffer.data = value
        buffer.data = buffer.data.to(device)


def _put_on(model: PreTrainedModel, origin: Mapping[int, Source], device: torch.device) -> dict[str, Source]:
    """Placeholders on the device. Returns from what each parameter is read. Raises WholeOnlyError."""
    stored: dict[str, Source] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found = origin.get(parameter.data_ptr())
        if found is None:
            raise WholeOnlyError(f"{name} is made of its files' tensors, not one of them")
        _check_shape(name, parameter, found)
        stored[name] = found
    for parameter in model.parameters():
        parameter.data = placeholder(parameter.shape, device, parameter.dtype)
    return stored


def _check_shape(name: str, tensor: Tensor, stored: Source) -> None:
    if tensor.shape != stored.shape or any(tensor.stride()) or not tensor.is_floating_point():
        raise WholeOnlyError(f"{name} is another view of {stored.name}")
