"""Which attention a model gets, from its config alone. Owns the choice; attention.py and transformers compute it."""

from __future__ import annotations

from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PretrainedConfig

from raysft.errors import ModelError
from raysft.model.encoder import is_encoder
from raysft.model.facts import load_config
from raysft.recipe.change import change
from raysft.recipe.schema import Recipe


def attention_backend(recipe: Recipe, config: PretrainedConfig) -> str:
    """transformers' name of the attention implementation. Raises ModelError.

    model.attention: auto is sdpa, which becomes attention within segments where the model's code allows it
    (model/fast/attention.py), or eager for model types that have no sdpa (soft caps, sinks: gemma2, gpt_oss).
    """
    wanted = recipe.model.attention
    mapping: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if is_encoder(config) else MODEL_FOR_CAUSAL_LM_MAPPING
    known: Any = mapping.get(type(config), None)  # None: remote code, asked when it is loaded
    if known is None:
        return "sdpa" if wanted == "auto" else wanted
    has = {
        "sdpa": known._supports_sdpa,
        "eager": True,
        "flash_attention_2": known._supports_flash_attn,
    }
    if wanted == "auto":
        return "sdpa" if has["sdpa"] else "eager"
    if not has[wanted]:
        raise ModelError(
            f"a {config.model_type} model has no attention backend {wanted!r}",
            got=f"model.attention: {wanted}",
            expected=f"auto, or one of {', '.join(name for name, there in has.items() if there)}",
            fix="remove model.attention: the best backend is chosen",
        )
    return wanted


def with_backend(recipe: Recipe) -> Recipe:
    """The recipe with model.attention settled. Raises ModelError."""
    chosen = attention_backend(recipe, load_config(recipe))
    return change(recipe, {"model.attention": chosen})
