"""Which parameters are trained: the table of methods. The only importer of peft."""

from __future__ import annotations

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
