"""What adapters have in common: found, merged, parted from shared weights. All but bottlenecks are peft's."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from raysft.errors import ModelError
from raysft.model.encoder import head_of_encoder
from raysft.model.methods.bottleneck import bottlenecks
from raysft.model.targets import expert_parameters, unfit_layers
from raysft.recipe.adapter_sizes import ends_in

if TYPE_CHECKING:
    from peft import PeftModel


def base_model(module: nn.Module) -> PreTrainedModel:
    """The transformers model inside, adapters still in its layers."""
    inner = module.get_base_model() if is_pefts(module) else module
    assert isinstance(inner, PreTrainedModel)
    return inner


def is_adapted(module: nn.Module) -> bool:
    """Does it carry adapters?"""
    return is_pefts(module) or bool(bottlenecks(module))


def is_pefts(module: nn.Module) -> TypeGuard[PeftModel]:
    """Has peft put it around the model?"""
    from peft import PeftModel

    return isinstance(module, PeftModel)


def merge(module: nn.Module) -> PreTrainedModel:
    """A plain transformers model: adapters are added into the weights they adapt (fp32). Bottlenecks stay in it."""
    if not is_pefts(module):
        return base_model(module)
    merged = module.merge_and_unload()
    assert isinstance(merged, PreTrainedModel)
    return merged


def unload(module: nn.Module) -> tuple[PreTrainedModel, dict[nn.Module, list[Any]]]:
    """The model with its adapters taken out, not merged; and {layer: its adapters, to be merged in this order}."""
    layers: dict[nn.Module, list[Any]] = {}
    for _, layer in adapter_layers(base_model(module)):
        layers.setdefault(layer.get_base_layer(), []).append(layer)
    return module.unload() if is_pefts(module) else base_model(module), layers


def merge_layer(adapters: Sequence[Any]) -> None:
    """Add adapters (of `unload`) into the fp32 weights of their layer, as `merge` does. Can be done again when the
    layer has other weights."""
    for adapter in adapters:
        layer = adapter.base_layer
        adapter.merge()
        if adapter.base_layer is not layer:  # put in its place, as a trained copy of a norm is: the model has `layer`
            merged = adapter.base_layer
            adapter.unmerge()
            for weight, found in zip(layer.parameters(), merged.parameters(), strict=True):
                weight.data = found.data.clone()
        adapter.merged_adapters.clear()


@contextmanager
def settled() -> Iterator[None]:
    """Warnings that raysft has an answer to are not shown: tied weights are parted, embeddings saved where they are
    adapted, and what peft calls in transformers by an old name is not the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        for told in (".*tie_word_embeddings.*", ".*save_embedding_layers.*", ".*(rank|alpha)_pattern keys.*"):
            warnings.filterwarnings("ignore", message=told)
        yield


def adapted_layers(module: nn.Module) -> list[str]:
    """Names, in the model without adapters, of the layers and parameters (of experts) that have one."""
    from peft.tuners.lora.layer import ParamWrapper

    named = [
        plain_name(name) + (f".{layer.parameter_name}" if isinstance(layer, ParamWrapper) else "")
        for name, layer in adapter_layers(base_model(module))
    ]
    return [*named, *bottlenecks(module)]


def is_layer_adapted(layer: object) -> bool:
    """Does this layer carry an adapter?"""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(layer, BaseTunerLayer)


def plain_name(name: str) -> str:
    """The name of a module or parameter before adapters were put around it."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def task_type(model: PreTrainedModel) -> str | None:
    """What peft takes a model for; None: for one that it knows nothing of, as an encoder."""
    return "CAUSAL_LM" if head_of_encoder(model) is None else None


def untie(model: PreTrainedModel) -> None:
    """Part embedding and head, where they share a weight and one of them is adapted: the adapter's product, added
    to the shared weight, would make another model than the trained one. Raises ModelError for other layers."""
    layers = {name: layer.get_base_layer() for name, layer in adapter_layers(model)}
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


def adapter_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """(name, adapted layer) of each adapter; adapters of several parameters of a module are nested."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def _inside(layer: Any) -> Any:
    """A layer without its adapter."""
    return layer.get_base_layer() if is_layer_adapted(layer) else layer


def no_layer(
    model: PreTrainedModel, targets: Sequence[str], told: str, *, takes_all_linear: bool = True
) -> ModelError:
    """The error for names that fit no layer. told: peft's words. Some layers may have their adapters already."""
    parts = tuple(f"{name}." for name, _ in adapter_layers(model))
    linear = {
        plain_name(name)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and (name.endswith(".base_layer") or not name.startswith(parts))
    }
    known = sorted({name.rsplit(".", 1)[-1] for name in linear - set(unfit_layers(model, "all-linear"))})
    if "all-linear" in targets and len(targets) > 1:
        told = "all-linear stands alone"
    return ModelError(
        "method.target_modules fits no layer",
        got=f"{list(targets)}: {told}",
        expected=("all-linear, or " if takes_all_linear else "") + f"some of {', '.join(known)}",
        fix="mend method.target_modules",
    )


def check_ranks(adapted: nn.Module, *, is_named: bool, ranks: Collection[str] = ()) -> None:
    """A product of two matrices has no more ranks than the smaller side of the weight. Raises ModelError.

    Among layers that were not named one may be narrower, such as the gate of a shared expert. ranks: names of layers
    with a rank of their own.
    """
    layers = adapter_layers(base_model(adapted))
    over = {
        plain_name(name): (layer.r["default"], layer.out_features, layer.in_features)
        for name, layer in layers
        if layer.r["default"] > min(layer.out_features, layer.in_features)
    }
    own = {name: sizes for name, sizes in over.items() if ends_in(name, tuple(ranks))}
    wrong = own or over
    if own or len(over) == len(layers) or (over and is_named):
        pick, field = (min if is_named or own else max), "method.ranks" if own else "method.rank"
        name, (rank, outputs, inputs) = pick(wrong.items(), key=lambda item: min(item[1][1:]))
        most, leaf = min(outputs, inputs), name.rpartition(".")[2]
        others = f" and {len(wrong) - 1} more layers" if len(wrong) > 1 else ""
        raise ModelError(
            "an adapter has more ranks than its layer",
            got=f"rank {rank}, {name} [{outputs}, {inputs}]{others}",
            expected=f"at most {most} there: more are trained for nothing",
            fix=f"set {field}: {f'{{{leaf}: {most}}}' if own else most} or less, or leave {leaf} out of "
            "method.target_modules",
        )


def refuse_experts(model: PreTrainedModel, title: str) -> None:
    """Under all-linear, of a method that adapts layers only. title: the method's. Raises ModelError."""
    if experts := expert_parameters(model):
        raise ModelError(
            f"{title} has no adapters for experts that lie in one parameter",
            got=f"method.target_modules: all-linear, and {experts[0]} ({model.config.model_type})",
            expected="linear layers",
            fix="name the attention's layers in method.target_modules, or set method.kind: lora",
        )
