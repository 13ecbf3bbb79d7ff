"""Adapters as plain peft loads them on the untouched base: what is saved, and is all of it found again. Bottlenecks,
of which peft knows nothing, as bottleneck.py has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from raysft.model.methods.adapters import base_model, is_pefts, settled
from raysft.model.methods.bottleneck import bottleneck_tensors, save_bottlenecks
from raysft.model.methods.lora_start import START, is_residual, widened
from raysft.recipe.schema import Recipe


def adapter_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """What save_adapter writes: with an adapted embedding, the embedding too."""
    from peft import get_peft_model_state_dict

    if not is_pefts(module):
        return bottleneck_tensors(base_model(module))
    with settled():
        return dict(get_peft_model_state_dict(module))


def save_adapter(
    module: nn.Module, directory: str, recipe: Recipe, pad_token_id: int | None, *, with_weights: bool = True
) -> None:
    """The bare adapter as peft loads it: adapter_model.safetensors and adapter_config.json.

    with_weights: False, for a rehearsal, leaves the first out. pad_token_id: the tokenizer's.
    """
    loose: Any = module
    if not is_pefts(module):
        save_bottlenecks(base_model(module), directory, recipe, pad_token_id, with_weights=with_weights)
        return
    if not with_weights:  # peft looks for some of them
        loose.peft_config["default"].save_pretrained(directory)
        return
    config = loose.peft_config["default"]
    own: dict[str, torch.Tensor] | None = None
    if is_residual(module):
        loose.peft_config["default"], own = widened(module)
    with settled():
        module.train(False)  # peft saves what an encoder of virtual tokens gives, without dropout
        loose.save_pretrained(directory, safe_serialization=True, state_dict=own, selected_adapters=["default"])
    loose.peft_config["default"] = config


def keys_lost_by_reload(trained: nn.Module, fresh: nn.Module) -> list[str]:
    """Names of adapter weights that peft, by renaming keys, does not find in what it saves."""
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    if not is_pefts(trained):
        return []
    assert isinstance(fresh, PeftModel)
    if fresh.active_peft_config.is_prompt_learning:  # one tensor, under one name
        return []
    with settled():
        found: Any = set_peft_model_state_dict(fresh, get_peft_model_state_dict(trained))
    prefix = f".{fresh.base_model.prefix}"
    return [name for name in found.missing_keys if prefix in name and f".{START}." not in name]
