"""config.json -> ModelFacts, without torch. Owns where a model source lies; loads no weights."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from raysft import storage
from raysft.errors import ModelError
from raysft.recipe.resolve import ModelFacts
from raysft.recipe.schema import Recipe


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
    location = model_location(recipe)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            location, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise ModelError(
            f"cannot read the model {model.source!r}",
            got=" ".join(str(error).split())[:300],
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
        num_layers=_first(text, "num_hidden_layers", "n_layer"),
        hidden_size=_first(text, "hidden_size", "n_embd"),
        vocab_size=_first(text, "vocab_size"),
        max_tokens=text.get("max_position_embeddings") or text.get("n_positions"),
    )


def _config_from_recipe(fields: dict[str, Any]) -> PretrainedConfig:
    model_type = fields.pop("model_type", None)
    try:
        config: PretrainedConfig = AutoConfig.for_model(model_type, **fields)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(
            "model.config is not a transformers config",
            got=f"model_type = {model_type!r}: {str(error)[:200]}",
            expected="model_type (llama, qwen3, mistral, gpt2...) and that type's fields",
            fix="mend model.config",
        ) from error
    return config


def _first(fields: dict[str, Any], *names: str) -> int:
    for name in names:
        if isinstance(fields.get(name), int):
            return int(fields[name])
    raise ModelError(
        "this model is no decoder that raysft knows",
        got=f"a config without {' or '.join(names)}",
        expected="a decoder language model",
        fix="choose a causal language model",
    )


def _nearest_directory(location: str) -> str:
    parent = Path(location).parent
    if "://" in location or not parent.is_dir():
        return ""
    close = difflib.get_close_matches(Path(location).name, [path.name for path in parent.iterdir()], n=1)
    return f"; did you mean {parent / close[0]}?" if close else ""
