"""The columns that the untrained model, or teachers, write beside the stores before training: found, or made on Ray.

A task for each part, with the resources of a worker; a killed run goes on with the parts that are finished, and two
runs of the same data and base do the work once. What the numbers are is evaluate/reference.py and
evaluate/teachers.py, the files data/store/columns.py.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from raysft.data.on_ray import Item, TaskResources, on_ray
from raysft.data.prepare.prepared import Prepared
from raysft.data.store.columns import (
    columns_location,
    finished_parts,
    is_published,
    publish_columns,
    rows_per_group,
    write_columns_part,
)
from raysft.data.store.packed_rows import Row, columns_of
from raysft.data.store.parts import TokenStore
from raysft.data.text.tokenizer import recipe_tokenizer
from raysft.errors import ModelError
from raysft.evaluate.reference import load_reference, reference_inputs, reference_values
from raysft.evaluate.teachers import (
    check_teachers,
    load_teachers,
    teacher_inputs,
    teacher_values,
)
from raysft.lease import lease
from raysft.model.load import rows_for
from raysft.recipe.evaluation_sets import evaluation_sets
from raysft.recipe.fingerprint import FRESH_WEIGHTS
from raysft.recipe.load import parse_recipe
from raysft.recipe.objective_traits import live_columns, reference_columns, teachers_of
from raysft.recipe.schema import Recipe
from raysft.recipe.teachers import teacher_recipes
from raysft.run.base_weights import base_fingerprint
from raysft.run.evaluation_tasks import leaving_no_model, worker_sized
from raysft.run.layout_choice import evaluation_gpus
from raysft.run.progress import PrepareProgress
from raysft.run.room import room_of
from raysft.runtime.join import cluster_facts
from raysft.storage import check_writable, join, remove_tree

logger = logging.getLogger(__name__)

_Progress = Callable[[str, int, int], None]
"""Called with (`reference`, how many parts are done, how many there will be)."""


@dataclass(frozen=True)
class ReferenceColumns:
    """Where they lie; none: the objective asks for none."""

    train: str | None = None
    evaluated: Mapping[str, str] = field(default_factory=dict)
    """{set of which rows are computed: where its columns lie}."""


def check(recipe: Recipe) -> None:
    """What can be told of its columns before anything is prepared. Raises ModelError."""
    if teachers_of(recipe):
        check_teachers(recipe)
    widest = max((column.width for column in (*reference_columns(recipe), *live_columns(recipe))), default=1)
    if widest > (known := rows_for(recipe_tokenizer(recipe))):
        raise ModelError(
            "more likeliest tokens are asked for than there are",
            got=f"objective: {recipe.objective.kind}, {widest} tokens of {known:,}",
            expected=f"at most {known:,}",
            fix="lower the objective's top_k",
        )


def find_or_make(recipe: Recipe, prepared: Prepared) -> ReferenceColumns:
    """The columns of the recipe's objective beside its stores. recipe: with absolute paths. Raises RaysftError."""
    if not reference_columns(recipe):
        return ReferenceColumns()
    assert prepared.train is not None  # a stream is refused (recipe/data_checks.py)
    plans = evaluation_sets(recipe)
    sets = {name: store for name, store in prepared.evaluated.items() if "loss" in plans[name].metrics}
    stores = {prepared.train: prepared.train_manifest, **{one.location: one.manifest for one in sets.values()}}
    started = time.monotonic()
    with PrepareProgress() as progress:
        found = {store: _of_store(recipe, store, manifest, progress) for store, manifest in stores.items()}
    logger.info("reference    %s (%.1f s)", found[prepared.train], time.monotonic() - started)
    return ReferenceColumns(found[prepared.train], {name: found[one.location] for name, one in sets.items()})


def base_identity(recipe: Recipe) -> dict[str, Any] | str:
    """What decides the weights that a run begins with: their content; the seed, config and version of fresh ones.

    Weights that are not on this machine yet are known by their name alone, so that no other run takes them for its
    own.
    """
    if recipe.model.source == "random":
        return {"config": recipe.model.config, "seed": recipe.seed, "weights": FRESH_WEIGHTS}
    known = base_fingerprint(recipe)
    return known or {"model": recipe.model.source, "revision": recipe.model.revision, "run": recipe.name}


def _inputs(recipe: Recipe) -> dict[str, Any]:
    """What decides the numbers, besides rows and columns."""
    if teachers_of(recipe):
        return teacher_inputs(recipe, [base_identity(one) for one in teacher_recipes(recipe)])
    return reference_inputs(recipe, base_identity(recipe))


def _of_store(recipe: Recipe, store: str, manifest: Mapping[str, Any], progress: _Progress) -> str:
    """Where the columns of a store lie, which are there then."""
    fields, inputs = reference_columns(recipe), _inputs(recipe)
    location, total = columns_location(store, manifest, fields, inputs), len(manifest["parts"])
    done = finished_parts(location, manifest)
    if len(done) == total and is_published(location):
        return location
    check_writable(location)
    with lease(join(location, "lease"), done=partial(is_published, location), waiting=_say_waiting) as ours:
        if ours and not is_published(location):
            done = finished_parts(location, manifest)
            if done:
                logger.info("going on with %d of %d finished parts of reference columns", len(done), total)
            make = partial(make_reference_part, fields=recipe.model_dump(mode="json"), store=store, location=location)
            items = [{"index": index} for index in range(total) if index not in done]
            for index, entry in on_ray(make, items, _sized(recipe)):
                done[index] = entry
                progress("reference", len(done), total)
            publish_columns(location, manifest, fields, inputs, done)
    if ours:  # the lease in it is no longer held
        remove_tree(join(location, "lease"))
    return location


def _sized(recipe: Recipe) -> TaskResources:
    """Tasks with as many GPUs of a node as hold the models that are asked."""
    sized = worker_sized(recipe)
    if not sized.gpus:
        return sized
    nodes = cluster_facts()
    models = teacher_recipes(recipe) if teachers_of(recipe) else [recipe]
    most = max((int(node.gpus) for node in nodes.nodes), default=1)
    gpus = max(1, min(most, sum(evaluation_gpus(one, nodes) for one in models)))
    return replace(sized, gpus=gpus, at_once=max(1, recipe.cluster.workers // gpus))


def make_reference_part(
    item: Item, *, fields: Mapping[str, Any], store: str, location: str
) -> tuple[int, dict[str, Any]]:
    """(part, its entry), in a task: the untrained model asked about the rows of a part of a store."""
    recipe = parse_recipe(dict(fields))
    torch.set_num_threads(recipe.cluster.cpus_per_worker)
    with leaving_no_model(bool(recipe.cluster.gpus_per_worker)):
        return item["index"], _write_part(recipe, item["index"], store, location)


def _write_part(recipe: Recipe, index: int, store: str, location: str) -> dict[str, Any]:
    tokenizer, packing = recipe_tokenizer(recipe), recipe.data.packing
    opened, columns = TokenStore.open(store), reference_columns(recipe)
    batches = _batches(opened, index, recipe.train.micro_batch_rows)
    with tempfile.TemporaryDirectory(prefix="raysft-layers-") as folder:
        room = partial(
            room_of,
            vocab_size=rows_for(tokenizer),
            tasks=recipe.cluster.workers,
            folder=folder,
            rows=recipe.train.micro_batch_rows,
        )
        values = (
            teacher_values(load_teachers(recipe, tokenizer, room), batches, columns, packing=packing)
            if teachers_of(recipe)
            else reference_values(load_reference(recipe, tokenizer, room(recipe)), batches, columns, packing=packing)
        )
        tables = (columns_of(rows, columns, found) for rows, found in values)
        return write_columns_part(location, index, tables, rows_per_group(opened.manifest, columns))


def _batches(store: TokenStore, part: int, size: int) -> Iterator[list[Row]]:
    """The rows of a part in order, so many at a time."""
    first = sum(store.windows[:part])
    end = first + store.windows[part]
    for start in range(first, end, size):
        yield store.read_rows(range(start, min(start + size, end)))


def _say_waiting(holder: str) -> None:
    logger.info("the same reference columns are being made by %s; waiting for them", holder)
