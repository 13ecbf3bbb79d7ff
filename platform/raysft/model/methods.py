"""Which parameters are trained: the table of methods. The only importer of peft."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.decoder import unread
from raysft.model.fast.low_rank import use_low_rank
from raysft.model.targets import expert_parameters, unfit_layers
from raysft.recipe.schema import Recipe

if TYPE_CHECKING:
    from peft import LoraConfig


def apply_method(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model ready for training: its trained parameters require grad, the others do not."""
    match recipe.method.kind:
        case "full":
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            for tower in unread(model).values():  # no text passes it: only weight decay would reach it
                tower.requires_grad_(False)
            return model
        case "lora":
            return _with_lora(model, recipe)


def base_model(module: nn.Module) -> PreTrainedModel:
    """The transformers model inside, adapters still in its layers."""
    inner = module.get_base_model() if is_adapted(module) else module  # type: ignore[operator]
    assert isinstance(inner, PreTrainedModel)
    return inner


def is_adapted(module: nn.Module) -> bool:
    """Does it carry peft adapters?"""
    from peft import PeftModel

    return isinstance(module, PeftModel)


def merge(module: nn.Module) -> PreTrainedModel:
    """A plain transformers model: adapters are added into the weights they adapt (fp32)."""
    if not is_adapted(module):
        return base_model(module)
    merged = module.merge_and_unload()  # type: ignore[operator]
    assert isinstance(merged, PreTrainedModel)
    return merged


def save_adapter(module: nn.Module, directory: str, weights: dict[str, torch.Tensor] | None = None) -> None:
    """The bare adapter as peft loads it: adapter_model.safetensors and adapter_config.json. weights: others."""
    with _settled():
        module.save_pretrained(directory, safe_serialization=True, state_dict=weights)  # type: ignore[operator]


@contextmanager
def _settled() -> Iterator[None]:
    """Warnings that raysft has an answer to are not shown: tied weights are parted, embeddings saved where they are
    adapted, and what peft calls in transformers by an old name is not the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        for told in (".*tie_word_embeddings.*", ".*save_embedding_layers.*", ".*(rank|alpha)_pattern keys.*"):
            warnings.filterwarnings("ignore", message=told)
        yield


def keys_lost_by_reload(trained: nn.Module, fresh: nn.Module) -> list[str]:
    """Names of adapter weights that peft, by renaming keys, does not find in what it saves."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    with _settled():
        found: Any = set_peft_model_state_dict(fresh, get_peft_model_state_dict(trained))
    return [name for name in found.missing_keys if "lora_" in name]


def adapted_layers(module: nn.Module) -> list[str]:
    """Names, in the model without adapters, of the layers and parameters (of experts) that have one."""
    from peft.tuners.lora.layer import ParamWrapper

    return [
        plain_name(name) + (f".{layer.parameter_name}" if isinstance(layer, ParamWrapper) else "")
        for name, layer in _adapters(base_model(module))
    ]


def is_layer_adapted(layer: object) -> bool:
    """Does this layer carry an adapter?"""
    from peft.tuners.lora.layer import LoraLayer

    return isinstance(layer, LoraLayer)


def plain_name(name: str) -> str:
    """The name of a module or parameter before adapters were put around it."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


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


def _with_lora(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    from peft import LoraConfig, get_peft_model  # 4 s to import: only where it is used
    from peft.tuners.lora.layer import Linear

    method = recipe.method
    targets: str | list[str] = list(method.target_modules)
    if targets == ["all-linear"]:
        targets = "all-linear"
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]  # peft divides it by r, a float is fine
        lora_dropout=method.dropout,
        target_modules=targets,
        exclude_modules=unfit_layers(model, targets) or None,
        task_type="CAUSAL_LM",
    )
    if targets == "all-linear":
        _target_experts(config, model)
    generator_state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    try:
        with _settled():
            adapted: nn.Module = get_peft_model(model, config)
    except ValueError as error:
        raise _cannot_adapt(model, recipe, " ".join(str(error).split())[:200]) from error
    finally:
        torch.set_rng_state(generator_state)
    _untie(base_model(adapted))
    if model.device.type == "cuda":
        use_low_rank(layer for _, layer in _adapters(base_model(adapted)) if type(layer) is Linear)
    return adapted


def _target_experts(config: LoraConfig, model: PreTrainedModel) -> None:
    """Have the experts of a mixture adapted where they are parameters [experts, ...] and no layers.

    peft does so by itself for the types that it knows in an older form (Mixtral, Qwen3-MoE, DeepSeek).
    """
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    known = copy.deepcopy(config)
    convert_peft_config_for_transformers(known, model, None)
    if not known.target_parameters:
        config.target_parameters = expert_parameters(model) or None


def _cannot_adapt(model: PreTrainedModel, recipe: Recipe, told: str) -> ModelError:
    if "lora_dropout" in told:
        return ModelError(
            "the adapters of a mixture's experts take no dropout",
            got=f"method.dropout = {recipe.method.dropout}, a {model.config.model_type} model",
            expected="method.dropout: 0, or target modules that are no experts",
            fix="set method.dropout: 0, or name the attention's layers in method.target_modules",
        )
    unfit = set(unfit_layers(model, "all-linear"))
    linear = {name for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    return ModelError(
        "method.target_modules fits no layer",
        got=f"{list(recipe.method.target_modules)}: {told}",
        expected=f"all-linear, or some of {', '.join(sorted({name.rsplit('.', 1)[-1] for name in linear - unfit}))}",
        fix="mend method.target_modules",
    )


def _untie(model: PreTrainedModel) -> None:
    """Part embedding and head, where they share a weight and one of them is adapted: the adapter's product, added
    to the shared weight, would make another model than the trained one. Raises ModelError for other layers."""
    layers = {name: layer.get_base_layer() for name, layer in _adapters(model)}
    holders: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(module)
    ends = [_inside(model.get_input_embeddings()), _inside(model.get_output_embeddings())]
    for name, layer in layers.items():
        others = [m for p in layer.parameters(recurse=False) for m in holders[id(p)] if m is not layer]
        if others and not all(module in ends for module in (layer, *others)):
            raise ModelError(
                "an adapted layer shares its weight with others",
                got=f"{name} ({model.config.model_type})",
                expected="layers with weights of their own, which an adapter can be merged into",
                fix="take it out of method.target_modules, or set method.kind: full",
            )
        if others:
            ends[1].weight = nn.Parameter(ends[1].weight.detach().clone(), requires_grad=False)
            for config in (model.config, model.config.get_text_config()):
                config.tie_word_embeddings = False
            return


def _adapters(model: nn.Module) -> list[tuple[str, Any]]:
    """(name, adapted layer) of each adapter; adapters of several parameters of a module are nested."""
    from peft.tuners.lora.layer import LoraLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def _inside(layer: Any) -> Any:
    """A layer without its adapter."""
    return layer.get_base_layer() if is_layer_adapted(layer) else layer
