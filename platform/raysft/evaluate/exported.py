"""An export directory -> model and tokenizer. Owns which directory that is and what is wrong with others."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from raysft import storage
from raysft.data.text.tokenizer import load_tokenizer
from raysft.errors import ModelError
from raysft.model.facts import UNUSABLE
from raysft.model.files import refuse_other_weights
from raysft.model.methods import ADAPTER_CONFIG, ADAPTER_WEIGHTS, put_bottlenecks


def load_exported(location: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model of an export, in its own dtype on CPU, and its tokenizer. Raises ModelError.

    location: an export directory, its `merged/`, its `adapter/` of bottlenecks (they are put on the base that it
    names), or any transformers directory with safetensors; a path or a URI (which is copied to a temporary directory
    first).
    """
    directory = model_directory(storage.absolute(location))
    if "://" not in directory:
        return _load(directory, location)
    with tempfile.TemporaryDirectory(prefix="raysft-export-") as copy:
        _copy(directory, Path(copy))
        return _load(copy, location)


def _copy(location: str, directory: Path) -> None:
    """The files of a model at a URI, and its tokenizer's further templates, which have a folder."""
    directory.mkdir(exist_ok=True)
    for name in storage.list_names(location):
        source = storage.join(location, name)
        if name == "additional_chat_templates":
            _copy(source, directory / name)
        else:
            (directory / name).write_bytes(storage.read_bytes(source))


def model_directory(location: str) -> str:
    """The directory of an export that holds the model. Raises ModelError."""
    try:
        names = storage.list_names(location)
    except OSError as error:
        raise _unusable(location, f"no directory ({error})", "name the export directory") from error
    if "config.json" in names:
        directory = location
    elif "merged" in names:
        directory = storage.join(location, "merged")
        names = storage.list_names(directory)
    elif not names:
        got = "no directory, or an empty one" if storage.exists(location) else "no such directory"
        raise _unusable(location, got, "check the path; `raysft export` makes one")
    elif ADAPTER_CONFIG in names:
        directory = location
    elif "adapter" in names and ADAPTER_CONFIG in storage.list_names(storage.join(location, "adapter")):
        directory = storage.join(location, "adapter")
        names = storage.list_names(directory)
    elif "adapter" in names or "adapter_config.json" in names:
        adapter = storage.join(location, "adapter") if "adapter" in names else location
        if "num_virtual_tokens" in _read_json(storage.join(adapter, "adapter_config.json")):
            got = "an adapter of virtual tokens, which no model can be merged with"
            raise _unusable(
                location, got, "load it with peft as its README.md says; the run's report has its results"
            )
        raise _unusable(location, "a bare adapter", "set export.merged: true and run `raysft export` again")
    else:
        raise _unusable(location, f"no config.json; there are {', '.join(names[:5])}", "name the export directory")
    if not any(name.endswith(".safetensors") for name in names):
        raise _unusable(directory, "no *.safetensors: a model directory without weights", "export it again")
    return directory


def _read_json(location: str) -> Mapping[str, Any]:
    """The fields of a file; none where it cannot be read, for something else is wrong then."""
    try:
        found = json.loads(storage.read_bytes(location))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _load(directory: str, location: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    transformers_logging.disable_progress_bar()
    refuse_other_weights(directory)
    tokenizer = load_tokenizer(directory)
    adapter = _read_json(f"{directory}/{ADAPTER_CONFIG}")
    if adapter:
        return _with_bottlenecks(directory, location, adapter), tokenizer
    return _whole_model(directory, location), tokenizer


def _with_bottlenecks(directory: str, location: str, adapter: Mapping[str, Any]) -> PreTrainedModel:
    """The base of an adapter, with it. Raises ModelError."""
    base, revision = adapter.get("base_model"), adapter.get("revision")
    if adapter.get("head"):
        got = "an adapter with a head of its own: it gives numbers of a text, and answers nothing"
        raise _unusable(location, got, "load it as its README.md says")
    if not base:
        got = "an adapter on fresh weights, which are in no file"
        raise _unusable(location, got, "name the run's directory, which knows how they were made")
    refuse_other_weights(base, revision)
    try:
        model = _whole_model(base, location, revision)
        put_bottlenecks(model, adapter, load_file(f"{directory}/{ADAPTER_WEIGHTS}"))
        model.generation_config = GenerationConfig.from_pretrained(directory)
    except (OSError, SafetensorError) as error:
        raise _unusable(location, " ".join(str(error).split())[:300], "export it again") from error
    return model


def _whole_model(directory: str, location: str, revision: str | None = None) -> PreTrainedModel:
    made = _read_json(f"{directory}/config.json").get("architectures") or [""]
    if str(made[0]).endswith("ForSequenceClassification"):
        got = f"a {made[0]}: it gives numbers of a text, and answers nothing"
        raise _unusable(location, got, "load it with transformers' AutoModelForSequenceClassification")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory, revision=revision, use_safetensors=True, output_loading_info=True
        )
    except (OSError, SafetensorError, *UNUSABLE) as error:
        raise _unusable(location, " ".join(str(error).split())[:300], "export it again") from error
    model: PreTrainedModel = loaded[0]
    missing = ", ".join(sorted(loaded[1]["missing_keys"])[:3])
    if missing:  # transformers fills them with random numbers
        raise _unusable(location, f"weights are missing: {missing}", "export it again")
    return model


def _unusable(location: str, got: str, fix: str) -> ModelError:
    expected = "an export directory: `merged/` with config.json, *.safetensors and a tokenizer"
    return ModelError(f"there is no model to evaluate at {location}", got=got, expected=expected, fix=fix)
