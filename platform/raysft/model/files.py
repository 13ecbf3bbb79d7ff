"""The files of a model source: where they lie, which may be read, what is wrong with a place. Loads none of them."""

from __future__ import annotations

import difflib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from raysft import storage
from raysft.errors import ModelError
from raysft.exports import merged_export
from raysft.recipe.schema import Recipe

INDEX = "model.safetensors.index.json"
_PROCESSORS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
)
"""Files that a multimodal model is used with and training does not change."""


def model_location(recipe: Recipe) -> str:
    """Directory or hub id of the model's files: `run://NAME` becomes that run's merged export."""
    source = recipe.model.source
    if source.startswith("run://"):
        return merged_export(recipe.storage, source.removeprefix("run://"))
    return storage.absolute(source) if os.path.isdir(source) or source.startswith((".", "/", "~")) else source


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
    refuse_other_weights(location)


def refuse_other_weights(location: str, revision: str | None = None) -> None:
    """Refuse what would have transformers read anything but safetensors of this model. location: directory or hub id.

    An index or a config may name any file: a pickled one would be unpickled, and pickles can run code. An adapter
    would be put on weights that nobody named. Raises ModelError.
    """
    if _file(location, "adapter_config.json", revision) is not None:
        raise _is_adapter(location, revision)
    config = read_object(location, "config.json", revision)
    stated = config.get("transformers_weights")
    for name in {INDEX, *([stated] if stated is not None else [])}:
        if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
            raise _names_others(location, "config.json (transformers_weights)", repr(name))
        if name.endswith(".json"):
            named = read_object(location, name, revision).get("weight_map", {})
            files = set(named.values()) if isinstance(named, dict) else {named}
            for file in sorted(map(str, files)):
                is_below = not os.path.isabs(file) and ".." not in Path(file).parts and "\\" not in file
                if not (file.endswith(".safetensors") and is_below):
                    raise _names_others(location, name, repr(file))


def weight_files(location: str, revision: str | None = None) -> list[str]:
    """Paths of the model's safetensors, in the order in which transformers looks for them. []: there are none here.

    Raises ModelError for an index that cannot be read.
    """
    stated = read_object(location, "config.json", revision).get("transformers_weights")
    for name in [str(stated)] if stated is not None else ["model.safetensors", INDEX]:
        if name.endswith(".json"):
            named = read_object(location, name, revision).get("weight_map", {})
            found = [_file(location, file, revision) for file in sorted({*named.values()})]
        else:
            found = [_file(location, name, revision)]
        if found and all(found):
            return [path for path in found if path is not None]
    return []


def _names_others(location: str, where: str, got: str) -> ModelError:
    return ModelError(
        f"the model {location} names weights that are not loaded",
        got=f"{where} names {got}",
        expected="*.safetensors in the model's own directory (pickled weights are never loaded: they can run code)",
        fix="convert the weights to safetensors with transformers, and take that directory",
    )


def _is_adapter(location: str, revision: str | None) -> ModelError:
    base = read_object(location, "adapter_config.json", revision).get("base_model_name_or_path")
    return ModelError(
        f"the model {location} is an adapter, or has one in it",
        got="adapter_config.json" + (f", an adapter of {base}" if isinstance(base, str) else ""),
        expected="a whole model: config.json, *.safetensors and no adapter",
        fix="merge it into its base (peft: merge_and_unload(), save_pretrained()) and name that directory; of a "
        "raysft run name run://NAME, which takes its export.merged; or name the base itself for a new adapter",
    )


def _file(location: str, name: str, revision: str | None) -> str | None:
    """A file of a directory or of a hub's model, where it is there (or cached). None: it is not."""
    try:
        found: str | None = cached_file(
            location,
            name,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:  # no such model: told where it is read
        return None
    return found


def read_object(location: str, name: str, revision: str | None) -> dict[str, Any]:
    """A JSON object of a model; {}: there is no such file. Raises ModelError."""
    found = _file(location, name, revision)
    if found is None:
        return {}
    try:
        value = json.loads(Path(found).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        value = error
    if not isinstance(value, dict):
        raise ModelError(
            f"{name} of the model {location} cannot be read",
            got=str(value)[:200],
            expected="a JSON object",
            fix="download or export the model again",
        )
    return value


def copy_processors(recipe: Recipe, directory: Path) -> None:
    """Put what a multimodal base's images and sounds are read with beside its export."""
    if recipe.model.source == "random":
        return
    for name in _PROCESSORS:
        found = _file(model_location(recipe), name, recipe.model.revision)
        if found is not None:
            shutil.copyfile(found, directory / name)


def what_is_at(location: str, told: str) -> str:
    """What is wrong with a model's location; `told` is what transformers said of it."""
    if os.path.isdir(location):
        if os.path.isfile(os.path.join(location, "config.json")):
            return told
        return f"a directory without config.json: {', '.join(sorted(os.listdir(location))[:8]) or 'it is empty'}"
    if os.path.exists(location):
        return "a file, no directory"
    looks_local = location.startswith((".", "/", "~"))
    return "no such directory" if looks_local else f"no such directory; as a hub id: {told}"


def nearest_directory(location: str) -> str:
    """`; did you mean ...?` for a directory that is not there, or nothing."""
    parent = Path(location).parent
    if "://" in location or os.path.exists(location) or not parent.is_dir():
        return ""
    close = difflib.get_close_matches(Path(location).name, [path.name for path in parent.iterdir()], n=1)
    return f"; did you mean {parent / close[0]}?" if close else ""
