"""Trained weights -> what others load: `merged/` for transformers, `adapter/` for peft, a card in each.

    <out>/merged/       safetensors, config, generation config, tokenizer with its chat template, README.md
    <out>/adapter/      LoRA only: the bare adapter, README.md
    <out>/export.json   written last: every file with its size and sha256. No manifest, no export.

Owns names, dtypes and the order of writing. Knows no checkpoint: weights come as (HF parameter name, tensor).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from raysft import sealed, storage
from raysft.errors import CheckpointError, StorageError
from raysft.model.card import CardFacts, model_card
from raysft.model.files import copy_processors
from raysft.model.generation import set_generation
from raysft.model.load import cast_as_loaded, load_model, rows_for
from raysft.model.methods import apply_method, merge, save_adapter
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of

MANIFEST = "export.json"
FORMAT_VERSION = 1
MAX_SHARD = "2GB"

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_STAGING = ".export-"


def export_run(
    recipe: Recipe,
    weights: Iterator[tuple[str, Tensor]],
    tokenizer: PreTrainedTokenizerFast,
    *,
    out: str,
    card: CardFacts,
    stops: Sequence[int] = (),
) -> list[str]:
    """Write the export of a run to the directory or URI `out`. Returns the locations of its parts.

    weights: each trained parameter of the recipe's model once, by HF name, fp32. tokenizer: with the chat template
    the run was trained on. stops: ids that trained answers end in, besides the end of text. An intact export of the
    same run is left alone, `weights` unread. The merged model has the dtype of train.precision; the adapter is fp32.
    Raises CheckpointError (weights do not fit the model), ModelError, StorageError.
    """
    parts = export_parts(recipe)
    made_of = {name: card.fingerprints[name] for name in ("data", "mathematics")}
    identity = {"format_version": FORMAT_VERSION, "parts": parts, "steps": card.steps, **made_of}
    locations = [storage.join(out, part) for part in parts]
    if read_export_manifest(out, identity) is not None:
        return locations
    module = rebuild(recipe, weights, vocab_size=rows_for(tokenizer))
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=_staging_parent(out)) as staging:
        write_parts(recipe, module, tokenizer, card, Path(staging), stops)
        files = _describe_files(Path(staging))
        storage.remove_tree(storage.join(out, MANIFEST))
        for part in parts:
            _publish(Path(staging, part), storage.join(out, part))
    sealed.write(storage.join(out, MANIFEST), {**identity, "files": files})
    return locations


def rebuild(recipe: Recipe, weights: Iterator[tuple[str, Tensor]], *, vocab_size: int) -> nn.Module:
    """The recipe's model (fp32, CPU) with trained weights, adapters still apart. Raises CheckpointError."""
    module = apply_method(load_model(recipe, vocab_size=vocab_size), recipe)
    _set_weights(module, weights)
    return module


def export_parts(recipe: Recipe) -> list[str]:
    """`adapter` and `merged`, as far as the recipe wants them. A method that has one part always gives it."""
    parts = method_of(recipe).exports
    wanted = {"adapter": recipe.export.adapter, "merged": recipe.export.merged}
    return [part for part in parts if wanted[part] or len(parts) == 1]


def read_export_manifest(out: str, identity: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The manifest of an intact export; None when it is absent, of another identity, or a file is damaged."""
    location = storage.join(out, MANIFEST)
    manifest = sealed.read(location, {"files": list})
    if manifest is None:
        return None
    if identity is not None and {k: v for k, v in manifest.items() if k != "files"} != dict(identity):
        return None
    return manifest if all(_is_whole(out, entry) for entry in manifest["files"]) else None


def damaged_files(out: str) -> list[str]:
    """Files of an export that are gone or not as its manifest says, by their names there. [] without a manifest."""
    manifest = sealed.read(storage.join(out, MANIFEST), {"files": list})
    entries = manifest["files"] if manifest else []
    return [
        str(entry.get("name")) if isinstance(entry, dict) else "?" for entry in entries if not _is_whole(out, entry)
    ]


def _is_whole(out: str, entry: Any) -> bool:
    """Has a file of the manifest its size and checksum?"""
    if sealed.problem_of(entry, {"name": str, "bytes": int, "sha256": str}) or ".." in entry["name"].split("/"):
        return False
    try:
        data = storage.read_bytes(storage.join(out, entry["name"]))
    except OSError:
        return False
    return bool(len(data) == entry["bytes"]) and hashlib.sha256(data).hexdigest() == entry["sha256"]


def _set_weights(module: nn.Module, weights: Iterator[tuple[str, Tensor]]) -> None:
    """Every trained parameter once, by name and shape; anything else is an error."""
    missing = {name: p for name, p in module.named_parameters() if p.requires_grad}
    known = set(missing)
    with torch.no_grad():
        for name, tensor in weights:
            if name not in missing:
                what = "is given twice" if name in known else "is no trained parameter of this model"
                raise _does_not_fit(f"the weight {name} {what}", got=name, expected="each trained parameter once")
            parameter = missing.pop(name)
            if parameter.shape != tensor.shape:
                raise _does_not_fit(
                    f"the weight {name} has another shape",
                    got=str(list(tensor.shape)),
                    expected=str(list(parameter.shape)),
                )
            parameter.copy_(tensor)
    if missing:
        raise _does_not_fit(
            f"{len(missing)} trained parameter(s) have no weight",
            got=f"{len(known) - len(missing)} of {len(known)}; missing: {', '.join(sorted(missing)[:3])}",
            expected="each trained parameter once",
        )


def _does_not_fit(what: str, *, got: str, expected: str) -> CheckpointError:
    fix = "export with the recipe that made the checkpoint (model, method.rank, method.target_modules)"
    return CheckpointError(what, got=got, expected=expected, fix=fix)


def write_parts(
    recipe: Recipe,
    module: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    card: CardFacts,
    directory: Path,
    stops: Sequence[int],
    *,
    with_weights: bool = True,
) -> None:
    """Write the parts of an export. Takes the adapters out of `module`. with_weights: False leaves them out."""
    weights: dict[str, Tensor] | None = None if with_weights else {}
    parts = export_parts(recipe)
    if "adapter" in parts:
        save_adapter(module, str(directory / "adapter"), weights)
    if "merged" in parts:
        model = merge(module)
        cast_as_loaded(model, _DTYPES[recipe.train.precision])
        set_generation(model, tokenizer, stops=stops, is_fresh=recipe.model.source == "random")
        model.save_pretrained(directory / "merged", state_dict=weights, max_shard_size=MAX_SHARD)
        tokenizer.save_pretrained(directory / "merged")
        copy_processors(recipe, directory / "merged")
    for part in parts:  # peft has put an empty form there
        readme = directory / part / "README.md"
        readme.unlink(missing_ok=True)
        readme.write_text(model_card(recipe, card, part), encoding="utf-8")
        for path in _files(directory / part):  # safetensors makes files that only their owner may read
            path.chmod(readme.stat().st_mode)


def _staging_parent(out: str) -> str | None:
    """Local exports are staged beside their place, so that a rename publishes them. Clears what a killed one left."""
    if "://" in out:
        return None
    storage.check_writable(out)
    for name in storage.list_names(out):
        if name.startswith(_STAGING):
            storage.remove_tree(storage.join(out, name))
    return storage.absolute(out)


def _publish(staged: Path, destination: str) -> None:
    """Replace what is at the destination by the staged directory."""
    try:
        storage.remove_tree(destination)
        if "://" not in destination:
            os.replace(staged, storage.absolute(destination))
            return
    except OSError as error:
        raise StorageError(
            f"cannot publish the export to {destination}",
            got=str(error),
            expected="a directory this process may write to",
            fix="check its permissions, or export to another place",
        ) from error
    for path in _files(staged):
        storage.write_bytes(storage.join(destination, path.relative_to(staged).as_posix()), path.read_bytes())


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _describe_files(staging: Path) -> list[dict[str, Any]]:
    """[{name, bytes, sha256}], names relative to the export's directory."""
    return [
        {
            "name": path.relative_to(staging).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in _files(staging)
    ]
