"""Which parameters are trained: the table of methods. The only importer of peft."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.recipe.schema import Recipe


def apply_method(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model ready for training: its trained parameters require grad, the others do not."""
    match recipe.method.kind:
        case "full":
            for parameter in model.parameters():
                parameter.requires_grad_(True)
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


def save_adapter(module: nn.Module, directory: str) -> None:
    """The bare adapter as peft loads it: adapter_model.safetensors and adapter_config.json."""
    module.save_pretrained(directory, safe_serialization=True)  # type: ignore[operator]


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
    from peft import LoraConfig, get_peft_model  # 6.8 s to import: only where it is used

    method = recipe.method
    targets: str | list[str] = list(method.target_modules)
    if targets == ["all-linear"]:
        targets = "all-linear"
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]  # peft divides it by r, a float is fine
        lora_dropout=method.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    generator_state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    try:
        adapted: nn.Module = get_peft_model(model, config)
    except ValueError as error:
        names = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise ModelError(
            "method.target_modules fits no layer",
            got=f"{list(method.target_modules)}: {str(error)[:200]}",
            expected=f"all-linear, or some of {', '.join(names)}",
            fix="mend method.target_modules",
        ) from error
    finally:
        torch.set_rng_state(generator_state)
    return adapted
