"""Models in: weights from files or fresh ones from a config. Always fp32 here; the engine casts."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from raysft.errors import ModelError
from raysft.model.facts import load_config, model_location
from raysft.recipe.schema import Recipe


def load_model(recipe: Recipe, *, vocab_size: int) -> PreTrainedModel:
    """The model of a recipe in fp32 on CPU. Raises ModelError.

    vocab_size: tokens the tokenizer can produce; the embedding must have a row for each. With
    `source: random` the config's vocab_size defaults to it; fresh weights are seeded by recipe.seed.
    """
    transformers_logging.disable_progress_bar()
    config = load_config(recipe)
    model = _fresh(recipe, config, vocab_size) if recipe.model.source == "random" else _from_files(recipe)
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    embedding_rows = embedding.shape[0]
    if vocab_size > embedding_rows:
        raise ModelError(
            "the tokenizer knows more tokens than the model",
            got=f"{vocab_size} tokens, {embedding_rows} embedding rows",
            expected="an embedding row for every token",
            fix="use the model's own tokenizer (leave model.tokenizer out)",
        )
    model.config.use_cache = False
    return model


def _fresh(recipe: Recipe, config: PretrainedConfig, vocab_size: int) -> PreTrainedModel:
    assert recipe.model.config is not None
    if "vocab_size" not in recipe.model.config:
        config.vocab_size = vocab_size
    generator_state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=recipe.model.attention
        )
    except (ValueError, ImportError, TypeError, RuntimeError, ArithmeticError, StrictDataclassError) as error:
        raise _cannot_load(recipe, error) from error
    finally:
        torch.set_rng_state(generator_state)
    return model


def _from_files(recipe: Recipe) -> PreTrainedModel:
    section = recipe.model
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model_location(recipe),
            revision=section.revision,
            trust_remote_code=section.trust_remote_code,
            attn_implementation=section.attention,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise _cannot_load(recipe, error) from error
    model: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:  # transformers fills them with random numbers
        raise _cannot_load(recipe, f"{len(missing)} weights are missing: {', '.join(missing[:3])}")
    return model


def _cannot_load(recipe: Recipe, error: Exception | str) -> ModelError:
    got = " ".join(str(error).split())[:300]
    if "attention" in got.lower() or "flash" in got.lower():
        return ModelError(
            f"the model {recipe.model.source!r} has no attention backend {recipe.model.attention!r}",
            got=got,
            expected="a backend that this model and this machine have",
            fix="set model.attention: eager (every model has it)",
        )
    if "ignore_mismatched_sizes" in got:  # transformers points to a table that it logs
        got = "weights of other shapes than config.json says"
    return ModelError(
        f"cannot load the model {recipe.model.source!r}",
        got=got,
        expected="a causal language model with safetensors weights (pickled weights are never loaded)",
        fix="check that the directory holds model.safetensors; convert .bin files with transformers first",
    )
