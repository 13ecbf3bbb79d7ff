"""What a run does on the cluster besides training: export and evaluation. Plain functions, run as Ray tasks.

Those that evaluate return what evaluate_share() does of a share, (its number, of how many); evaluation_tasks.py puts
shares together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from raysft import storage
from raysft.data.store.parts import TokenStore
from raysft.data.text.own_ends import with_own_ends
from raysft.data.text.stops import recipe_template, stop_token_ids
from raysft.data.text.tokenizer import recipe_tokenizer
from raysft.errors import CheckpointError, UserError
from raysft.evaluate.adapter_start import adapter_start
from raysft.evaluate.classified import classification_record, classify, labelled_record
from raysft.evaluate.evaluation import Share, evaluate_share
from raysft.evaluate.exported import load_exported
from raysft.evaluate.generation import TransformersGenerator
from raysft.evaluate.heldout import held_out_loss
from raysft.evaluate.retrieval import retrieval_record, retrieve
from raysft.evaluate.sampling import Sampling
from raysft.evaluate.scorers import make_scorers
from raysft.model.card import CardFacts
from raysft.model.embedder import pooling_of
from raysft.model.export import export_parts, export_run, export_share
from raysft.model.heads import as_classifier
from raysft.model.load import dtypes_as_loaded, rows_for
from raysft.model.methods import METHODS, Forward, base_model, forward_of
from raysft.model.spread import Room, spread
from raysft.model.trained import load_adapted, load_trained, load_untrained
from raysft.recipe.evaluation_sets import evaluation_sets
from raysft.recipe.load import parse_recipe
from raysft.recipe.objective_traits import classes_of, embeds
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of
from raysft.run.export_check import check_export
from raysft.run.room import room_of
from raysft.train.commits.layout import Checkpoint, read_commits
from raysft.train.commits.lineage import lineage, read_attempts
from raysft.train.history.paths import RunPaths

READERS = 8
"""Files of a checkpoint that are read at a time for their checksums."""


Numbers = tuple[int, int]
"""Which share of an evaluation or an export, of how many."""


def evaluate_initial(fields: dict[str, Any], stores: dict[str, str], share: Numbers) -> dict[str, Any]:
    """The model before training."""
    recipe = parse_recipe(fields)
    tokenizer = recipe_tokenizer(recipe)
    with _room(recipe, tokenizer, share) as room:
        model, forward = starting_model(recipe, tokenizer, room)
        return _evaluate(recipe, model, tokenizer, stores, share, forward)


def starting_model(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, room: Room
) -> tuple[PreTrainedModel, Forward | None]:
    """(the model that training begins with, what runs it where it does not run by itself): the base, with the adapter
    that it goes on with (begin_from), as the workers have it at step 0."""
    if METHODS[recipe.method.kind].begin is None or not method_of(recipe).computed_start(recipe.method):
        return load_untrained(recipe, vocab_size=rows_for(tokenizer), room=room), None
    begun = adapter_start(recipe, tokenizer, None)
    module = load_adapted(recipe, begun, vocab_size=rows_for(tokenizer), room=room)
    return base_model(module), forward_of(module, recipe)


def evaluate_trained(fields: dict[str, Any], stores: dict[str, str], share: Numbers, run: str) -> dict[str, Any]:
    """The newest checkpoint of a run, adapters merged where they can be."""
    recipe = parse_recipe(fields)
    tokenizer = recipe_tokenizer(recipe)
    weights, size = newest_checkpoint(run).weights(), rows_for(tokenizer)
    with _room(recipe, tokenizer, share) as room:
        if "merged" in method_of(recipe).exports:
            model = load_trained(recipe, weights, vocab_size=size, room=room)
            return _evaluate(recipe, model, tokenizer, stores, share)
        module = load_adapted(recipe, weights, vocab_size=size, room=room)
        return _evaluate(recipe, base_model(module), tokenizer, stores, share, forward_of(module, recipe))


def evaluate_classifier(fields: dict[str, Any], stores: dict[str, str], run: str) -> dict[str, Any]:
    """{set with labels: record, and `labelled`: its texts} of a run's newest checkpoint, as it is exported."""
    recipe = parse_recipe(fields)
    tokenizer, classes, plans = recipe_tokenizer(recipe), classes_of(recipe), evaluation_sets(recipe)
    torch.set_num_threads(recipe.cluster.cpus_per_worker)
    with _room(recipe, tokenizer, (0, 1)) as room:
        weights = newest_checkpoint(run).weights()
        trained = load_trained(recipe, weights, vocab_size=rows_for(tokenizer), room=room)
        model, found = as_classifier(trained, recipe, tokenizer.pad_token_id), {}
        for name, store in stores.items():
            labels = classify(
                model,
                TokenStore.open(store),
                classes,
                max_rows=plans[name].max_rows,
                decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
            )
            if len(labels.known):
                record, labelled = classification_record(labels, classes), labelled_record(labels, classes)
                found[name] = {**record, "labelled": labelled}
    return found


def evaluate_vectors(fields: dict[str, Any], stores: dict[str, str], run: str | None) -> dict[str, Any]:
    """{set: record} of the vectors of the newest checkpoint of a run; run None: of the model before training."""
    recipe = parse_recipe(fields)
    tokenizer, plans = recipe_tokenizer(recipe), evaluation_sets(recipe)
    torch.set_num_threads(recipe.cluster.cpus_per_worker)
    found, size = {}, rows_for(tokenizer)
    with _room(recipe, tokenizer, (0, 1)) as room:
        if run is None:
            model = load_untrained(recipe, vocab_size=size, room=room)
        else:
            model = load_trained(recipe, newest_checkpoint(run).weights(), vocab_size=size, room=room)
        pooling = pooling_of(recipe, model)
        for name, store in stores.items():
            found[name] = retrieval_record(
                *retrieve(model, TokenStore.open(store), pooling, max_rows=plans[name].max_rows)
            )
    return found


def evaluate_exported(fields: dict[str, Any], stores: dict[str, str], share: Numbers, export: str) -> dict[str, Any]:
    """An exported model, loaded as anybody would."""
    recipe = parse_recipe(fields)
    model, tokenizer = load_exported(export)
    dtype = torch.float32 if recipe.train.precision == "fp32" else model.dtype
    with _room(recipe, tokenizer, share) as room:
        spread(model, lambda parameter: parameter.data, dtypes_as_loaded(model, dtype), room)
        return _evaluate(recipe, model, tokenizer, stores, share)


def export(
    fields: dict[str, Any],
    run: str,
    card: dict[str, Any],
    written: dict[str, dict[str, Any]] | None = None,
    asked: dict[str, Any] | None = None,
) -> list[str]:
    """Export the newest checkpoint of a run. written: what tasks have written of it. asked: what training says of
    held-out rows, which is compared (export_check.py); None: nothing. Returns the directories."""
    recipe = parse_recipe(fields)
    tokenizer = export_tokenizer(recipe)
    stops = stop_token_ids(recipe, tokenizer)
    weights, out = newest_checkpoint(run).weights(), storage.join(run, "export")
    parts = export_run(recipe, weights, tokenizer, out=out, card=CardFacts(**card), stops=stops, written=written)
    if asked is not None and "merged" in export_parts(recipe):
        check_export(out, asked, partial(_exported_loss, recipe, out))
    return parts


def _exported_loss(recipe: Recipe, out: str, store: str, rows: int) -> float:
    """Nats a token of an exported model on the first rows of a store."""
    model, tokenizer = load_exported(out)
    torch.set_num_threads(recipe.cluster.cpus_per_worker)
    with _room(recipe, tokenizer, (0, 1)) as room:
        spread(model, lambda parameter: parameter.data, dtypes_as_loaded(model, model.dtype), room)
        return held_out_loss(model, TokenStore.open(store), max_rows=rows).loss


def export_files(fields: dict[str, Any], run: str, card: dict[str, Any], share: Numbers) -> dict[str, dict[str, Any]]:
    """A share of the files of weights of the export. Returns what was written, as export_share().

    The checkpoint's checksums are looked at once, by export(), which comes after.
    """
    recipe = parse_recipe(fields)
    weights, out = newest_checkpoint(run, is_verified=False).weights(), storage.join(run, "export")
    return export_share(recipe, weights, export_tokenizer(recipe), out=out, card=CardFacts(**card), share=share)


def export_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The recipe's tokenizer with the template that is trained, beside its own named ones. Raises ModelError."""
    tokenizer = recipe_tokenizer(recipe)
    if embeds(recipe):
        return with_own_ends(tokenizer)
    text, own = recipe_template(recipe, tokenizer).text, tokenizer.chat_template
    if not text:  # none is needed
        return tokenizer
    tokenizer.chat_template = {**own, "default": text} if isinstance(own, dict) else text
    return tokenizer


def newest_checkpoint(run: str, *, is_verified: bool = True) -> Checkpoint:
    """The newest commit of a run's lineage. Raises UserError, CheckpointError.

    is_verified: every file has its checksum; without it only its record is of use. Files are read side by side.
    """
    commits = lineage(read_attempts(run), read_commits(run))
    if not commits:
        raise UserError(
            f"the run {run} has no checkpoint",
            got="a directory without a commit" if storage.exists(run) else "no such directory",
            expected="a run that has trained",
            fix="run `raysft train` first, or check `name` and `storage`",
        )
    try:
        checkpoint = Checkpoint.open(run, commits[0])
        problem = _problem(checkpoint) if is_verified else None
    except (OSError, ValueError) as error:
        problem = f"its commit record: {error}"
    is_finished = storage.exists(RunPaths(run).result)
    if problem:
        raise CheckpointError(
            f"the newest checkpoint of {run} is damaged",
            got=problem,
            expected="files with the checksums of their commit record",
            fix="run `raysft train` again: it goes back to the checkpoint before, if there is one"
            + (f"; remove {storage.join(run, 'result.json')} first: the run had finished" if is_finished else ""),
        )
    return checkpoint


def _problem(checkpoint: Checkpoint) -> str | None:
    count = len(checkpoint.files)
    with ThreadPoolExecutor(READERS) as threads:
        return next(filter(None, threads.map(lambda part: checkpoint.verify(part, count), range(count))), None)


@contextmanager
def _room(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, share: Numbers) -> Iterator[Room]:
    """Where the model may lie while it is evaluated."""
    with tempfile.TemporaryDirectory(prefix="raysft-layers-") as folder:
        yield room_of(recipe, vocab_size=rows_for(tokenizer), tasks=share[1], folder=folder)


def _evaluate(
    recipe: Recipe,
    model: Any,
    tokenizer: Any,
    stores: dict[str, str],
    share: Numbers,
    forward: Forward | None = None,
) -> dict[str, Any]:
    torch.set_num_threads(recipe.cluster.cpus_per_worker)
    generator = TransformersGenerator(model, tokenizer, stop_token_ids(recipe, tokenizer) or None, forward=forward)
    how, plans = Sampling(recipe.evaluate.max_new_tokens), evaluation_sets(recipe)
    sets = {name: (TokenStore.open(stores[name]), plans[name]) for name in stores}
    scorers = make_scorers(recipe.evaluate, (metric for name in stores for metric in plans[name].metrics))
    return evaluate_share(model, generator, how, sets, forward, Share(*share), scorers=scorers)
