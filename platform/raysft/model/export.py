"""Trained weights -> what others load: `merged/` for transformers, `adapter/` for peft, a card in each.

    <out>/merged/       safetensors, config, generation config, tokenizer with its chat template, README.md
    <out>/adapter/      the bare adapter, README.md; where it is raysft's own, what it answers with, too
    <out>/export.json   written last: every file with its size and sha256. No manifest, no export.

Owns names, dtypes and the order of writing. Knows no checkpoint: weights come by HF parameter name. They are written
as a stream (trained.py, save_plan.py; decision 037), by one task or by several that share the files of weights
(weight_files.py); a model that cannot be outlined is made whole first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from raysft import sealed, storage
from raysft.errors import StorageError
from raysft.model.card import CardFacts, model_card
from raysft.model.embedder import write_modules
from raysft.model.export_manifest import (
    FORMAT_VERSION,
    MANIFEST,
    describe_files,
    files_below,
    is_of,
    read_export_manifest,
)
from raysft.model.files import INDEX, copy_processors
from raysft.model.generation import set_generation
from raysft.model.heads import as_classifier
from raysft.model.load import cast_as_loaded, dtypes_as_loaded, rows_for
from raysft.model.methods import base_model, merge, save_adapter
from raysft.model.outline import WholeOnlyError
from raysft.model.save_plan import SavePlan, plan_save
from raysft.model.trained import DTYPES, Merged, Trained, Weights, by_name, rebuild, tell_whole
from raysft.model.weight_files import STAGING, Entries, WeightFiles
from raysft.recipe.objective_traits import embeds, head_of
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of

MAX_SHARD = "2GB"


@dataclass(frozen=True)
class _Place:
    """Where an export is written."""

    staging: Path
    """All of it but files of weights, until it is published."""
    files: WeightFiles
    written: Mapping[str, dict[str, Any]]
    """Files of weights that other tasks have written."""


def export_run(
    recipe: Recipe,
    weights: Weights | Iterable[tuple[str, Tensor]],
    tokenizer: PreTrainedTokenizerFast,
    *,
    out: str,
    card: CardFacts,
    stops: Sequence[int] = (),
    written: Mapping[str, dict[str, Any]] | None = None,
) -> list[str]:
    """Write the export of a run to the directory or URI `out`. Returns the locations of its parts.

    weights: each trained parameter of the recipe's model once, by HF name, fp32; of a mapping each is asked for when
    it is written. tokenizer: with the chat template the run was trained on. stops: ids that trained answers end in,
    besides the end of text. written: what other tasks have returned from export_share(). An intact export of the same
    run is left alone, `weights` unread. The merged model has the dtype of train.precision; the adapter is fp32. Files
    of weights that an export of the same run had finished when it was killed are kept.
    Raises CheckpointError (weights do not fit the model), ModelError, StorageError.
    """
    parts, files = export_parts(recipe), WeightFiles(out, _identity(recipe, card))
    locations = [storage.join(out, part) for part in parts]
    if read_export_manifest(out, files.identity) is not None:
        return locations
    with _staging(files) as staging:
        place = _Place(staging, files, written or {})
        known = _write(recipe, by_name(weights), tokenizer, card, place, stops)
        entries = [entry for part in parts for entry in describe_files(staging, part, known)]
        storage.remove_tree(storage.join(out, MANIFEST))
        for part in parts:
            _publish(staging / part, storage.join(out, part), {Path(name).name for name in known})
    sealed.write(storage.join(out, MANIFEST), {**files.identity, "files": entries})
    storage.remove_tree(files.staging)
    return locations


def export_share(
    recipe: Recipe,
    weights: Weights,
    tokenizer: PreTrainedTokenizerFast,
    *,
    out: str,
    card: CardFacts,
    share: tuple[int, int],
) -> Entries:
    """Write share[0] of share[1] of the files of weights, before export_run() writes the rest. Returns them: none
    where there is an export of this run already, or no stream of its model. Raises as export_run()."""
    files, (part, parts) = WeightFiles(out, _identity(recipe, card)), share
    if "merged" not in export_parts(recipe) or is_of(out, files.identity):
        return {}
    try:
        merged = _merged(recipe, Trained(recipe, weights, vocab_size=rows_for(tokenizer)), tokenizer)
        plan = _plan(recipe, merged)
    except WholeOnlyError:
        return {}
    return files.write(plan, merged.read, list(plan.files)[part::parts])


def _identity(recipe: Recipe, card: CardFacts) -> dict[str, Any]:
    """What an export is of."""
    made_of = {name: card.fingerprints[name] for name in ("data", "mathematics")}
    return {"format_version": FORMAT_VERSION, "parts": export_parts(recipe), "steps": card.steps, **made_of}


def export_parts(recipe: Recipe) -> list[str]:
    """`adapter` and `merged`, as far as wanted. A method that has one part always gives it; a head of the objective's
    own, and vectors of texts, go with a whole model, if there can be one."""
    exports, is_whole = method_of(recipe).exports, head_of(recipe) or embeds(recipe)
    parts = ("merged",) if is_whole and "merged" in exports else exports
    wanted = {"adapter": recipe.export.adapter, "merged": recipe.export.merged}
    return [part for part in parts if wanted[part] or len(parts) == 1]


def _write(
    recipe: Recipe,
    weights: Weights,
    tokenizer: PreTrainedTokenizerFast,
    card: CardFacts,
    place: _Place,
    stops: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """Write the parts. Returns {file: its bytes and sha256} of those that were summed while they were written."""
    directory = place.staging
    try:
        trained = Trained(recipe, weights, vocab_size=rows_for(tokenizer))
        if "adapter" in export_parts(recipe):
            trained.save_adapter(str(directory / "adapter"), tokenizer.pad_token_id)
            _write_for_answers(recipe, base_model(trained.module), tokenizer, directory, stops)
        known = {}
        if "merged" in export_parts(recipe):
            merged = _merged(recipe, trained, tokenizer)
            plan = _plan(recipe, merged)
            _write_configs(recipe, merged.model, tokenizer, directory, stops, weights={})
            known = _write_weights(plan, merged, place)
    except WholeOnlyError as reason:
        tell_whole("export", reason)
        module = rebuild(recipe, weights, vocab_size=rows_for(tokenizer))
        write_parts(recipe, module, tokenizer, card, directory, stops)
        return {}
    _write_cards(recipe, card, directory)
    return {f"merged/{name}": entry for name, entry in known.items()}


def _merged(recipe: Recipe, trained: Trained, tokenizer: PreTrainedTokenizerFast) -> Merged:
    """The model without adapters, as what it is exported as."""
    merged = trained.merged()
    merged.model = as_classifier(merged.model, recipe, tokenizer.pad_token_id)
    return merged


def _plan(recipe: Recipe, merged: Merged) -> SavePlan:
    """Which files the merged model becomes, in the precision of the training. Raises WholeOnlyError."""
    merged.cast(dtypes_as_loaded(merged.model, DTYPES[recipe.train.precision]))
    return plan_save(merged.model, max_bytes=MAX_SHARD)


def _write_weights(plan: SavePlan, merged: Merged, place: _Place) -> Entries:
    """The merged model, a tensor at a time: what other tasks have not written. Returns all files of the plan."""
    part, files, written = place.staging / "merged", place.files, place.written
    index = plan.index()
    if index is not None:
        (part / INDEX).write_text(index, encoding="utf-8")
    files.clear_others(plan)
    known = {name: written[name] for name in plan.files if name in written}
    known |= files.write(plan, merged.read, [name for name in plan.files if name not in known])
    files.publish(plan.files, part)
    return known


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
        save_adapter(module, str(directory / "adapter"), recipe, tokenizer.pad_token_id, with_weights=with_weights)
        _write_for_answers(recipe, base_model(module), tokenizer, directory, stops)
    if "merged" in parts:
        model = as_classifier(merge(module), recipe, tokenizer.pad_token_id)
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
    if model.can_generate():
        set_generation(model, tokenizer, stops=stops, is_fresh=recipe.model.source == "random")
    model.save_pretrained(directory / "merged", state_dict=weights, max_shard_size=MAX_SHARD)
    tokenizer.save_pretrained(directory / "merged")
    copy_processors(recipe, directory / "merged")
    write_modules(recipe, model, directory / "merged")


def _write_for_answers(
    recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path, stops: Sequence[int]
) -> None:
    """Beside an adapter that only raysft loads: what it answers with. model: the base, the adapter in it."""
    if method_of(recipe).library != "peft":
        tokenizer.save_pretrained(directory / "adapter")
        if model.can_generate():
            set_generation(model, tokenizer, stops=stops, is_fresh=recipe.model.source == "random")
            model.generation_config.save_pretrained(directory / "adapter")


def _write_cards(recipe: Recipe, card: CardFacts, directory: Path) -> None:
    for part in export_parts(recipe):  # peft has put an empty form there
        readme = directory / part / "README.md"
        readme.unlink(missing_ok=True)
        readme.write_text(model_card(recipe, card, part), encoding="utf-8")
        for path in files_below(directory / part):  # safetensors makes files that only their owner may read
            path.chmod(readme.stat().st_mode)


@contextmanager
def _staging(files: WeightFiles) -> Iterator[Path]:
    """Where the parts are written before they are published: local ones beside their place, for a rename.

    A local one that was killed is gone on with, if it was of the same identity; others are cleared.
    """
    out, own = files.out, files.staging.rpartition("/")[2]
    for name in storage.list_names(out):
        if name.startswith(STAGING) and name != own:
            storage.remove_tree(storage.join(out, name))
    if not files.is_moved:
        with tempfile.TemporaryDirectory(prefix=STAGING) as staging:
            yield Path(staging)
        return
    storage.check_writable(out)
    for part in ("adapter", "merged"):
        storage.remove_tree(storage.join(files.staging, part))
    directory = Path(storage.absolute(files.staging))
    try:
        directory.mkdir(exist_ok=True)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _publish(staged: Path, destination: str, in_place: Collection[str]) -> None:
    """Replace what is at the destination by the staged directory. in_place: names of a URI's that are there."""
    try:
        if "://" not in destination:
            storage.remove_tree(destination)
            os.replace(staged, storage.absolute(destination))
            return
        for name in storage.list_names(destination):
            if name not in in_place:
                storage.remove_tree(storage.join(destination, name))
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
