"""config.json -> ModelFacts, without torch. Owns where a model source lies; loads no weights."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from raysft import storage
from raysft.errors import ModelError, RecipeError
from raysft.recipe.facts import ModelFacts
from raysft.recipe.schema import Recipe

_MLP_WITHOUT_GATE = frozenset(
    {"gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "opt", "bloom", "falcon", "phi", "codegen", "starcoder2"}
)
"""Model types whose feed-forward layer is two matrices; all others count as three."""


def model_location(recipe: Recipe) -> str:
    """Directory or hub id of the model's files: `run://NAME` becomes that run's merged export."""
    source = recipe.model.source
    if source.startswith("run://"):
        export = storage.join(storage.absolute(recipe.storage), "runs", source[6:], "export")
        location = storage.join(export, "merged")
        if not (storage.exists(location) and storage.exists(storage.join(export, "export.json"))):
            raise ModelError(
                f"the run {source[6:]!r} has no exported model",
                got=f"nothing at {location}",
                expected="a finished run with export.merged",
                fix="train it first, or run `raysft export`",
            )
        return location
    return storage.absolute(source) if os.path.isdir(source) or source.startswith((".", "/", "~")) else source


def load_config(recipe: Recipe) -> PretrainedConfig:
    """The model's transformers config, from its files or from the recipe. Raises ModelError."""
    model = recipe.model
    if model.config is not None:
        return _config_from_recipe(dict(model.config))
    if model.source == "random":
        raise RecipeError(
            "model.source: random needs model.config",
            got="model.config: null",
            expected="a transformers config with its model_type",
            fix="add model.config, or name a model directory or hub id in model.source",
        )
    location = model_location(recipe)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            location, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise ModelError(
            f"cannot read the model {model.source!r}",
            got=_what_is_at(location, " ".join(str(error).split())[:200]),
            expected="a local directory with config.json, a hub id that is reachable, run://NAME or `random`",
            fix="check model.source" + _nearest_directory(location),
        ) from error
    return config


def read_facts(recipe: Recipe) -> ModelFacts:
    """Sizes of the model that a recipe names. Raises ModelError."""
    config = load_config(recipe)
    text = config.get_text_config().to_dict()
    return ModelFacts(
        model_type=config.model_type,
        num_layers=first_size(text, "num_hidden_layers", "n_layer"),
        hidden_size=first_size(text, "hidden_size", "n_embd"),
        vocab_size=first_size(text, "vocab_size"),
        max_tokens=text.get("max_position_embeddings") or text.get("n_positions"),
        num_parameters=_weights_per_token(config.model_type, text),
        attention_size=_head_size(text) * first_size(text, "num_attention_heads", "n_head"),
        num_heads=first_size(text, "num_attention_heads", "n_head"),
        num_kv_heads=text.get("num_key_value_heads") or first_size(text, "num_attention_heads", "n_head"),
    )


def _head_size(text: dict[str, Any]) -> int:
    size = text.get("head_dim")
    return size or first_size(text, "hidden_size", "n_embd") // first_size(text, "num_attention_heads", "n_head")


def _weights_per_token(model_type: str, text: dict[str, Any]) -> int:
    """Weights of the matrices that each token is multiplied with: of a mixture, those of the experts it goes to."""
    hidden, heads = first_size(text, "hidden_size", "n_embd"), first_size(text, "num_attention_heads", "n_head")
    attention = 2 * hidden * _head_size(text) * (heads + (text.get("num_key_value_heads") or heads))
    inner = text.get("intermediate_size") or text.get("n_inner") or text.get("ffn_dim") or 4 * hidden
    if experts := text.get("num_experts_per_tok"):
        inner = experts * (text.get("moe_intermediate_size") or inner)
    mlp = hidden * inner * (2 if model_type in _MLP_WITHOUT_GATE else 3)
    layers = first_size(text, "num_hidden_layers", "n_layer")
    return int(layers * (attention + mlp) + hidden * first_size(text, "vocab_size"))


def _config_from_recipe(fields: dict[str, Any]) -> PretrainedConfig:
    model_type = fields.pop("model_type", None)
    try:
        config: PretrainedConfig = AutoConfig.for_model(model_type, **fields)
    except (ValueError, TypeError, KeyError, ArithmeticError, StrictDataclassError) as error:
        raise ModelError(
            "model.config is not a transformers config",
            got=f"model_type = {model_type!r}: {' '.join(str(error).split())[:200]}",
            expected="model_type (llama, qwen3, mistral, gpt2...) and that type's fields",
            fix="mend model.config",
        ) from error
    _refuse_misspelt(config, fields)
    return config


def _refuse_misspelt(config: PretrainedConfig, fields: dict[str, Any]) -> None:
    """transformers keeps a field it does not know and ignores it: `hiden_size` would give another model."""
    known = [*type(config)().to_dict(), *config.attribute_map]
    for name in fields:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        if name not in known and near:
            raise RecipeError(
                f"model.config has a field {name!r}, which a {config.model_type} model has not",
                got=f"{name}: {fields[name]!r}",
                expected=f"the fields of transformers' {type(config).__name__}",
                fix=f"did you mean {near[0]}?",
            )


def first_size(fields: dict[str, Any], *names: str) -> int:
    """The first of these fields that is a number. Raises ModelError."""
    for name in names:
        if isinstance(fields.get(name), int):
            return int(fields[name])
    raise ModelError(
        "this model is no decoder that raysft knows",
        got=f"a config without {' or '.join(names)}",
        expected="a decoder language model",
        fix="choose a causal language model",
    )


def check_weights(recipe: Recipe) -> None:
    """Refuse a local model directory without safetensors before anything starts. Raises ModelError."""
    location = model_location(recipe) if recipe.model.source != "random" else ""
    if not os.path.isdir(location):
        return  # fresh weights, or the hub, which is asked when the model is loaded
    names = sorted(os.listdir(location))
    if not any(name.endswith(".safetensors") for name in names):
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        raise ModelError(
            f"the model directory {location} has no weights that can be loaded",
            got=f"only pickled weights: {', '.join(pickled)}" if pickled else f"only {', '.join(names[:8])}",
            expected="model.safetensors (pickled weights are never loaded: they can run code)",
            fix="convert the weights to safetensors first" if pickled else "name a directory with weights",
        )


def check_vocabulary(recipe: Recipe, model: ModelFacts, num_tokens: int) -> None:
    """Refuse a tokenizer with more tokens than the model has embedding rows. Raises ModelError."""
    config = recipe.model.config
    if config is not None and "vocab_size" not in config:
        return  # fresh weights get one row for every token
    if num_tokens > model.vocab_size:
        raise ModelError(
            "the tokenizer knows more tokens than the model",
            got=f"{num_tokens} tokens, {model.vocab_size} embedding rows",
            expected="an embedding row for every token",
            fix="use the model's own tokenizer (leave model.tokenizer out)"
            if config is None
            else f"set model.config.vocab_size to {num_tokens} or more, or leave it out",
        )


def _what_is_at(location: str, told: str) -> str:
    """What is wrong with a model's location; `told` is what transformers said of it."""
    if os.path.isdir(location):
        if os.path.isfile(os.path.join(location, "config.json")):
            return told
        return f"a directory without config.json: {', '.join(sorted(os.listdir(location))[:8]) or 'it is empty'}"
    if os.path.exists(location):
        return "a file, no directory"
    return f"no such directory; as a hub id: {told}"


def _nearest_directory(location: str) -> str:
    parent = Path(location).parent
    if "://" in location or os.path.exists(location) or not parent.is_dir():
        return ""
    close = difflib.get_close_matches(Path(location).name, [path.name for path in parent.iterdir()], n=1)
    return f"; did you mean {parent / close[0]}?" if close else ""
