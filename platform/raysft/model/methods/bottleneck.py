"""Bottleneck adapters: small networks behind the sublayers of a frozen model, what is saved of them, and how they are
put on a model again.

Houlsby et al. 2019 (arXiv:1902.00751) have one behind attention and one behind the MLP, Pfeiffer et al. 2020
(arXiv:2005.00247) one behind the MLP. It reads what the sublayer's last linear layer gives, and adds to it before
that is added to the residual (where a model drops or normalises in between, before that). peft has none.

Shapes: D numbers that the layer gives, M numbers in the bottleneck.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from raysft import storage
from raysft.errors import ModelError
from raysft.exports import adapter_export
from raysft.model.decoder import decoder_layers, task_head
from raysft.model.encoder import describe_head, head_of_encoder
from raysft.model.files import model_location
from raysft.recipe.adapter_sizes import bottleneck_size
from raysft.recipe.families import WITH_SUBLAYERS, family_of
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import BottleneckMethod

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS = "bottleneck_config.json", "bottleneck.safetensors"
"""Files of an exported adapter."""
FORMAT = "raysft bottleneck adapter 1"
_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Bottleneck(nn.Module):
    """A linear layer and an adapter behind it: y + up(act(down(y))), y what the layer gives."""

    def __init__(self, base_layer: nn.Module, size: int, activation: str) -> None:
        """The adapter gives nothing at first: `up` is zero. `down` is drawn as torch draws a linear layer. On the
        device of the layer, in fp32. size: M."""
        super().__init__()
        width, device = _width(base_layer), next(base_layer.parameters()).device
        self.base_layer = base_layer
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.activation = _ACTIVATIONS[activation]()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        for own in (self.down, self.up):
            own.to(device)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., features in] -> [..., D]."""
        given: Tensor = self.base_layer(inputs)
        added: Tensor = self.up(self.activation(self.down(given)))
        return given + added


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model frozen, with fresh adapters in it, so that it computes what it did. Raises ModelError."""
    method = recipe.method
    assert isinstance(method, BottleneckMethod)
    paths = _paths(model, method)
    width = _width(model.get_submodule(paths[0]))
    _check_size(method, width)
    model.requires_grad_(False)
    generator_state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    try:
        _put(model, paths, bottleneck_size(method, width), method.activation)
    finally:
        torch.set_rng_state(generator_state)
    return model


def begin(module: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """{HF name: what it begins with}: the weights of an adapter that was exported before. Raises ModelError.

    module: of attach, with or without weights.
    """
    method = recipe.method
    assert isinstance(method, BottleneckMethod)
    if method.begin_from is None:
        return {}
    location = _adapter_at(method.begin_from, recipe.storage)
    try:
        config = json.loads(storage.read_bytes(storage.join(location, CONFIG)))
        tensors = load(storage.read_bytes(storage.join(location, WEIGHTS)))
        activation = config["activation"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _cannot_begin(method.begin_from, " ".join(str(error).split())[:200]) from error
    own = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if activation != method.activation:
        raise _cannot_begin(method.begin_from, f"activation {activation}, method.activation: {method.activation}")
    if strange := [f"{n} {list(shape)}" for n, shape in sorted(theirs.items()) if own.get(n) != shape]:
        raise _cannot_begin(method.begin_from, f"{strange[0]}, which this model has not")
    if lost := sorted(name for path in bottlenecks(module) for name in own.keys() - theirs if name.startswith(path)):
        raise _cannot_begin(method.begin_from, f"no {lost[0]}")
    base, own_base = config.get("base_model"), model_location(recipe)
    if base and base != own_base:
        logger.warning(
            "method.begin_from: this adapter was trained on %s, model.source is %s; it begins well only where both "
            "have the same weights",
            base,
            own_base,
        )
    return tensors


def _adapter_at(location: str, root: str) -> str:
    """The directory with CONFIG. root: the recipe's `storage`. Raises ModelError."""
    if location.startswith("run://"):
        return adapter_export(root, location.removeprefix("run://"))
    location = storage.absolute(location)
    inside = storage.join(location, "adapter")
    return inside if storage.exists(storage.join(inside, CONFIG)) else location


def _cannot_begin(location: str, got: str) -> ModelError:
    return ModelError(
        f"method.begin_from: {location} is no adapter that this run can go on with",
        got=got,
        expected=f"{CONFIG} and {WEIGHTS} of an adapter of this model, with its placement, size and activation",
        fix="name an exported bottleneck adapter, and say its numbers in method (they are in that file)",
    )


def bottlenecks(model: nn.Module) -> dict[str, Bottleneck]:
    """{name of a layer in the model without adapters: the layer with its adapter}, in their order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Bottleneck)}


def bottleneck_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """{name in a file: adapter weight, or weight of the objective's own head}."""
    found: dict[str, Tensor] = {
        f"{path}.{name}": parameter
        for path, layer in bottlenecks(model).items()
        for name, parameter in layer.named_parameters()
        if not name.startswith("base_layer.")
    }
    head = task_head(model)
    own = set() if head is None else set(head.parameters())
    return found | {name: parameter for name, parameter in model.named_parameters() if parameter in own}


def save_bottlenecks(
    model: PreTrainedModel, directory: str, recipe: Recipe, pad_token_id: int | None, *, with_weights: bool
) -> None:
    """Write CONFIG and WEIGHTS, fp32. A loader needs no more than them and the base: the guide has one."""
    layers = bottlenecks(model)
    one, method = next(iter(layers.values())), recipe.method
    assert isinstance(method, BottleneckMethod)
    content: dict[str, Any] = {
        "format": FORMAT,
        "base_model": model.name_or_path or None,
        "revision": recipe.model.revision,
        "placement": method.placement,
        "activation": method.activation,
        "bottleneck_size": one.down.out_features,
        "layers": list(layers),
        "head": None,
    }
    if task_head(model) is not None:
        config = copy.deepcopy(model.config)
        describe_head(config, recipe)
        pad = (
            {} if head_of_encoder(model) is not None else {"pad_token_id": pad_token_id}
        )  # a decoder scores its last
        content["head"] = {"num_labels": config.num_labels, "id2label": config.id2label, **pad}
    Path(directory).mkdir(parents=True, exist_ok=True)
    Path(directory, CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if with_weights:
        tensors = {name: tensor.detach().contiguous() for name, tensor in bottleneck_tensors(model).items()}
        save_file(tensors, Path(directory, WEIGHTS), metadata={"format": "pt"})


def put_bottlenecks(model: PreTrainedModel, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put an exported adapter on its base. config, tensors: of its two files. Raises ModelError."""
    try:
        if config["format"] != FORMAT:
            raise ValueError(f"format {config['format']!r}")
        _put(model, list(config["layers"]), int(config["bottleneck_size"]), str(config["activation"]))
        own = bottleneck_tensors(model)
        if lost := sorted(own.keys() ^ tensors.keys()):
            raise ValueError(f"{len(lost)} weights are on one side alone: {lost[0]}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(
            "this adapter does not fit this model",
            got=f"a {model.config.model_type}; {' '.join(str(error).split())[:200]}",
            expected=f"{FORMAT}: {CONFIG} and {WEIGHTS}, and the base that it was trained on",
            fix="name the base that the adapter was trained on, or export it again",
        ) from error


def _put(model: PreTrainedModel, paths: list[str], size: int, activation: str) -> None:
    for path in paths:
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent).register_module(name, Bottleneck(model.get_submodule(path), size, activation))


def _paths(model: PreTrainedModel, method: BottleneckMethod) -> list[str]:
    """Names of the layers behind which adapters stand, in their order. Raises ModelError."""
    model_type = model.config.get_text_config().model_type
    sublayers, layers = family_of(model_type).sublayers, decoder_layers(model)
    wanted = () if sublayers is None else sublayers if method.placement == "houlsby" else sublayers[1:]
    names = {module: name for name, module in model.named_modules()}
    found = [f"{names[layer]}.{one}" for layer in layers for one in wanted]
    known = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if not found or not known >= set(found):
        inside = f"{names[layers[-1]]}." if layers else ""
        there = sorted(name.removeprefix(inside) for name in known if name.startswith(inside))[:12]
        told = f"whose last layer has {', '.join(there) or 'no linear layers'}" if inside else "no list of layers"
        types = ", ".join(sorted(WITH_SUBLAYERS))
        raise ModelError(
            "raysft does not know where bottleneck adapters stand in this type of model",
            got=f"{model_type}, {told}",
            expected="one linear layer out of attention and one out of the MLP in every layer, called "
            f"self_attn.o_proj and mlp.down_proj, or as in {types}",
            fix="set method.kind: lora, or report the model type",
        )
    return found


def _check_size(method: BottleneckMethod, width: int) -> None:
    """Raises ModelError for an adapter without room, or wider than what it reads."""
    named = {"reduction_factor": method.reduction_factor, "bottleneck_size": method.bottleneck_size}
    for field, number in named.items():
        if number is not None and number > width:
            raise ModelError(
                "an adapter of this size is no bottleneck of this model",
                got=f"method.{field}: {number}, a model {width} wide",
                expected=f"from 1 to {width}",
                fix=f"set method.{field}: {min(16, width)}",
            )


def _width(layer: nn.Module) -> int:
    """D."""
    if isinstance(layer, Conv1D):  # GPT-2's linear layer
        return int(layer.nf)
    assert isinstance(layer, nn.Linear), type(layer)
    return layer.out_features
