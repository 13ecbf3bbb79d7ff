"""The base of a run by its content: a fingerprint that another model under the same name does not have.

It is that of the weights' bytes and of what config.json says about the model. A hub's cache names its files by their
sha256; other files are hashed once, and again when their stamp changes (data/read/contents.py).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from raysft import storage
from raysft.data.read.contents import contents
from raysft.data.read.sources import SourceFile
from raysft.errors import ModelError
from raysft.model.files import INDEX, model_location, read_object
from raysft.recipe.fingerprint import FRESH_BASE, digest
from raysft.recipe.objective_traits import live_columns
from raysft.recipe.schema import Recipe
from raysft.recipe.teachers import teacher_recipes

_TOLD_OTHERWISE = ("transformers_version", "_name_or_path", "use_cache", "dtype", "torch_dtype")
"""Keys of config.json that change no number of a training: weights are loaded in fp32, whatever it says."""
_SHA256 = re.compile("[0-9a-f]{64}")


def base_fingerprint(recipe: Recipe) -> str | None:
    """Changes with the weights or config of the base, or of a teacher that is asked in training. None: files
    that are not on this machine (yet)."""
    own = _fingerprint(recipe)
    if not live_columns(recipe):
        return own
    return digest({"base": own, "teachers": [_fingerprint(teacher) for teacher in teacher_recipes(recipe)]})


def _fingerprint(recipe: Recipe) -> str | None:
    """See base_fingerprint: of a recipe's model."""
    if recipe.model.source == "random":
        return FRESH_BASE
    try:
        location = model_location(recipe)
        if "://" in location or not _is_there(location, "config.json", recipe.model.revision):
            return None
        config = read_object(location, "config.json", recipe.model.revision)
        files = _weight_files(location, config, recipe.model.revision)
    except ModelError:  # an export that is gone, a file that is none: told where the model is loaded
        return None
    if files is None:
        return None
    sums = _sums(files, storage.join(storage.absolute(recipe.storage), "models", "hashes.json"))
    told = {name: value for name, value in config.items() if name not in _TOLD_OTHERWISE}
    return digest({"weights": sums, "config": told})


def _weight_files(location: str, config: dict[str, Any], revision: str | None) -> dict[str, Path] | None:
    """{name: file} of the weights that transformers would read; None when not all of them are on this machine."""
    stated = config.get("transformers_weights")
    single = stated if isinstance(stated, str) else "model.safetensors"
    index = single if single.endswith(".json") else INDEX
    if not single.endswith(".json") and (found := _is_there(location, single, revision)):
        return {single: found}
    if not _is_there(location, index, revision):
        return None
    named = read_object(location, index, revision).get("weight_map")
    names = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
    files = {name: _is_there(location, name, revision) for name in names}
    found_all = {name: file for name, file in files.items() if file is not None}
    return found_all if found_all and len(found_all) == len(names) else None


def _is_there(location: str, name: str, revision: str | None) -> Path | None:
    """A file of a directory or of the hub's cache. Downloads nothing."""
    if os.path.isdir(location):
        file = Path(location, name)
        return file if file.is_file() else None
    try:
        found = cached_file(
            location,
            name,
            revision=revision,
            local_files_only=True,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:  # no such model: told where it is read
        return None
    return None if found is None else Path(found)


def _sums(files: dict[str, Path], cache: str) -> dict[str, str]:
    """{name: sha256} of the files."""
    real = {name: file.resolve() for name, file in files.items()}
    sums = {name: file.name for name, file in real.items() if _is_named_by_sum(file)}
    others = [name for name in real if name not in sums]
    listed = [
        SourceFile(index, str(real[name]), "safetensors", real[name].stat().st_size)
        for index, name in enumerate(others)
    ]
    found = contents(listed, cache) if listed else []
    return sums | {name: one.sha256 for name, one in zip(others, found, strict=True)}


def _is_named_by_sum(file: Path) -> bool:
    """Is it a blob of a hub's cache (models--owner--name/blobs/SHA256)?"""
    is_in_cache = file.parent.name == "blobs" and file.parent.parent.name.startswith("models--")
    return is_in_cache and _SHA256.fullmatch(file.name) is not None
