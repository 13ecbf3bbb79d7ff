"""Trained weights -> what others load: `merged/` for transformers, `adapter/` for peft, a card in each.

    <out>/merged/       safetensors, config, generation config, tokenizer with its chat template, README.md
    <out>/adapter/      LoRA only: the bare adapter, README.md
    <out>/export.json   written last: every file with its size and sha256. No manifest, no export.

Owns names, dtypes and the order of writing. Knows no checkpoint: weights come by HF parameter name. They are written
as a stream (trained.py, save_plan.py; decision 037); a model that cannot be outlined is made whole first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from raysft import sealed, storage
from raysft.errors import StorageError
from raysft.model.card import CardFacts, model_card
from raysft.model.export_manifest import (
    FORMAT_VERSION,
    MANIFEST,
    describe_files,
    files_below,
    read_export_manifest,
)
from raysft.model.files import INDEX, copy_processors
from raysft.model.generation import set_generation
from raysft.model.load import cast_as_loaded, dtypes_as_loaded, rows_for
from raysft.model.methods import merge, save_adapter
from raysft.model.outline import WholeOnlyError
from raysft.model.save_plan import SavePlan, header, plan_save, write_file
from raysft.model.trained import DTYPES, Merged, Trained, Weights, by_name, rebuild, tell_whole
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of

MAX_SHARD = "2GB"
_STAGING = ".export-"
_FINISHED = "weights"
"""Beside the parts while they are staged: files of weights, and the checksum of each that is finished."""


def export_run(
    recipe: Recipe,
    weights: Weights | Iterable[tuple[str, Tensor]],
    tokenizer: PreTrainedTokenizerFast,
    *,
    out: str,
    card: CardFacts,
    stops: Sequence[int] = (),
) -> list[str]:
    """Write the export of a run to the directory or URI `out`. Returns the locations of its parts.

    weights: each trained parameter of the recipe's model once, by HF name, fp32; of a mapping each is asked for when
    it is written. tokenizer: with the chat template the run was trained on. stops: ids that trained answers end in,
    besides the end of text. An intact export of the same run is left alone, `weights` unread. The merged model has
    the dtype of train.precision; the adapter is fp32. Files of weights that an export of the same run had finished
    when it was killed are kept.
    Raises CheckpointError (weights do not fit the model), ModelError, StorageError.
    """
    parts = export_parts(recipe)
    made_of = {name: card.fingerprints[name] for name in ("data", "mathematics")}
    identity = {"format_version": FORMAT_VERSION, "parts": parts, "steps": card.steps, **made_of}
    locations = [storage.join(out, part) for part in parts]
    if read_export_manifest(out, identity) is not None:
        return locations
    with _staging(out, identity) as staging:
        known = _write(recipe, by_name(weights), tokenizer, card, staging, stops)
        files = [entry for part in parts for entry in describe_files(staging, part, known)]
        storage.remove_tree(storage.join(out, MANIFEST))
        for part in parts:
            _publish(staging / part, storage.join(out, part))
    sealed.write(storage.join(out, MANIFEST), {**identity, "files": files})
    return locations


def export_parts(recipe: Recipe) -> list[str]:
    """`adapter` and `merged`, as far as the recipe wants them. A method that has one part always gives it."""
    parts = method_of(recipe).exports
    wanted = {"adapter": recipe.export.adapter, "merged": recipe.export.merged}
    return [part for part in parts if wanted[part] or len(parts) == 1]


def _write(
    recipe: Recipe,
    weights: Weights,
    tokenizer: PreTrainedTokenizerFast,
    card: CardFacts,
    directory: Path,
    stops: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """Write the parts. Returns {file: its bytes and sha256} of those that were summed while they were written."""
    try:
        trained = Trained(recipe, weights, vocab_size=rows_for(tokenizer))
        if "adapter" in export_parts(recipe):
            trained.save_adapter(str(directory / "adapter"))
        known = {}
        if "merged" in export_parts(recipe):
            known = _write_merged(recipe, trained.merged(), tokenizer, directory, stops)
    except WholeOnlyError as reason:
        tell_whole("export", recipe, reason)
        module = rebuild(recipe, weights, vocab_size=rows_for(tokenizer))
        write_parts(recipe, module, tokenizer, card, directory, stops)
        return {}
    _write_cards(recipe, card, directory)
    return known


def _write_merged(
    recipe: Recipe, merged: Merged, tokenizer: PreTrainedTokenizerFast, directory: Path, stops: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The merged model, a tensor at a time. Returns {file: bytes and sha256}. Raises WholeOnlyError, if it does,
    before anything is written."""
    model, part = merged.model, directory / "merged"
    dtypes = dtypes_as_loaded(model, DTYPES[recipe.train.precision])
    merged.cast(dtypes)
    plan = plan_save(model, max_bytes=MAX_SHARD)
    _write_configs(recipe, model, tokenizer, directory, stops, weights={})
    index = plan.index()
    if index is not None:
        (part / INDEX).write_text(index, encoding="utf-8")
    finished = directory / _FINISHED
    finished.mkdir(exist_ok=True)
    for path in finished.iterdir():  # what a killed export was writing, or another version has written
        if path.name.removesuffix(".json") not in plan.files:
            path.unlink()
    known = {}
    for name in plan.files:
        location = str(finished / f"{name}.json")
        record = sealed.read(location, {"file": dict})
        entry = record["file"] if record else {}
        if not _is_finished(finished / name, plan, entry):
            entry = write_file(finished / name, plan, merged.read)
            sealed.write(location, {"file": entry})
        known[f"merged/{name}"] = entry
    for name in plan.files:
        os.replace(finished / name, part / name)
    return known


def _is_finished(path: Path, plan: SavePlan, entry: Mapping[str, Any]) -> bool:
    """Has a killed export of this run written this file?"""
    expected = header(plan.files[path.name])
    try:
        with path.open("rb") as file:
            if file.read(len(expected)) != expected:
                return False
        size, checksum = storage.size_and_sha256(str(path))
    except OSError:
        return False
    return dict(entry) == {"bytes": size, "sha256": checksum}


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
    """Write the parts of a whole model. Takes the adapters out of `module`. with_weights: False leaves them out."""
    weights: dict[str, Tensor] | None = None if with_weights else {}
    parts = export_parts(recipe)
    if "adapter" in parts:
        save_adapter(module, str(directory / "adapter"), weights)
    if "merged" in parts:
        model = merge(module)
        cast_as_loaded(model, DTYPES[recipe.train.precision])
        _write_configs(recipe, model, tokenizer, directory, stops, weights=weights)
    _write_cards(recipe, card, directory)


def _write_configs(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    stops: Sequence[int],
    *,
    weights: dict[str, Tensor] | None,
) -> None:
    """What stands beside the weights of `merged/`, and these weights (None: those of the model)."""
    set_generation(model, tokenizer, stops=stops, is_fresh=recipe.model.source == "random")
    model.save_pretrained(directory / "merged", state_dict=weights, max_shard_size=MAX_SHARD)
    tokenizer.save_pretrained(directory / "merged")
    copy_processors(recipe, directory / "merged")


def _write_cards(recipe: Recipe, card: CardFacts, directory: Path) -> None:
    for part in export_parts(recipe):  # peft has put an empty form there
        readme = directory / part / "README.md"
        readme.unlink(missing_ok=True)
        readme.write_text(model_card(recipe, card, part), encoding="utf-8")
        for path in files_below(directory / part):  # safetensors makes files that only their owner may read
            path.chmod(readme.stat().st_mode)


@contextmanager
def _staging(out: str, identity: Mapping[str, Any]) -> Iterator[Path]:
    """Where the parts are written before they are published: local ones beside their place, for a rename.

    A local one that was killed is gone on with, if it was of the same identity; others are cleared.
    """
    if "://" in out:
        with tempfile.TemporaryDirectory(prefix=_STAGING) as staging:
            yield Path(staging)
        return
    own = _STAGING + sealed.checksum(identity)[:16]
    storage.check_writable(out)
    for name in storage.list_names(out):
        if name.startswith(_STAGING) and name != own:
            storage.remove_tree(storage.join(out, name))
    for part in ("adapter", "merged"):
        storage.remove_tree(storage.join(out, own, part))
    directory = Path(storage.absolute(out), own)
    try:
        directory.mkdir(exist_ok=True)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


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
    for path in files_below(staged):
        location = storage.join(destination, path.relative_to(staged).as_posix())
        with path.open("rb") as file, storage.write_stream(location) as stream:
            shutil.copyfileobj(file, stream, 2**24)
