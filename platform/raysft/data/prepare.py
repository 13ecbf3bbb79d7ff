"""Recipe -> token stores, on Ray Data. Composes the stages; a finished store is a cache hit.

Owns fingerprints, the cache, the split and the pass over the data: read tasks are encoded by stateless Ray Data
tasks, and the driver hands the samples, in order, to the writers. Stores depend on the data alone, never on the
cluster. What tasks do is stage.py, windows and manifests are writer.py, the layout on disk is store.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from raysft.data.formats import check_columns
from raysft.data.rendering import Template
from raysft.data.sources import (
    Kind,
    ReadTask,
    SourceFile,
    content_hash,
    expand,
    file_and_position,
    plan_reads,
)
from raysft.data.stage import EncodeStage, encode_task, raised
from raysft.data.store import read_manifest
from raysft.data.tokenizer import load_tokenizer, template_for, tokenizer_hash, tokenizer_source
from raysft.data.writer import WINDOW, StoreWriter
from raysft.errors import ClusterError
from raysft.recipe.schema import Recipe
from raysft.storage import absolute, check_writable, join

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
"""Raise it when the same inputs would give other tokens or rows."""

Progress = Callable[[str, int, int], None]
"""Called with ("prepare", bytes of the input read so far, bytes of the input)."""


@dataclass(frozen=True)
class Prepared:
    """Where the stores are, and what they hold."""

    train: str
    eval: str | None
    train_manifest: dict[str, Any]
    eval_manifest: dict[str, Any] | None


def prepare(recipe: Recipe, *, progress: Progress | None = None) -> Prepared:
    """The recipe's token stores, made now or found. Ray must be initialised."""
    if not ray.is_initialized():
        raise ClusterError(
            "data is prepared on Ray, which is not running here",
            got="ray.is_initialized() is False",
            expected="a Ray cluster, local or joined",
            fix="call ray.init() before prepare()",
        )
    data, model = recipe.data, recipe.model
    check_columns(data.columns, data.format)
    template, common = _tokens_from(recipe)
    source = tokenizer_source(recipe)
    if data.eval and data.eval_fraction:
        logger.warning("data.eval_fraction is ignored: data.eval names held-out files")
    share = 0.0 if data.eval else data.eval_fraction

    def stage(held_out: float) -> EncodeStage:
        return EncodeStage(source, model.revision, model.trust_remote_code, template, data, held_out)

    files = expand(data.train)
    sides = {False: _side(recipe, files, {**common, "side": "train", "held_out": share})}
    if share:
        sides[True] = _side(recipe, files, {**common, "side": "eval", "held_out": share})
    train = _make(sides, stage(share), progress)
    held_out = train.get(True)
    if data.eval:
        side = _side(recipe, expand(data.eval), {**common, "side": "eval", "held_out": 1.0})
        held_out = _make({True: side}, stage(1.0), progress)[True]
    return Prepared(
        train=train[False][0],
        eval=held_out[0] if held_out else None,
        train_manifest=train[False][1],
        eval_manifest=held_out[1] if held_out else None,
    )


def train_fingerprint(recipe: Recipe) -> str:
    """The fingerprint of the recipe's training store, without making it and without Ray."""
    share = 0.0 if recipe.data.eval else recipe.data.eval_fraction
    common = {**_tokens_from(recipe)[1], "side": "train", "held_out": share}
    return str(_side(recipe, expand(recipe.data.train), common).identity["fingerprint"])


def _tokens_from(recipe: Recipe) -> tuple[Template, dict[str, str]]:
    """The template, and the hashes of what turns conversations into tokens."""
    model = recipe.model
    tokenizer = load_tokenizer(
        tokenizer_source(recipe), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    template = template_for(recipe.data.template, tokenizer)
    return template, {"tokenizer": tokenizer_hash(tokenizer), "template": _template_hash(template)}


def fingerprint(inputs: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of everything that changes tokens or rows."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _template_hash(template: Template) -> str:
    content = json.dumps([template.text, template.special_tokens.named, template.special_tokens.texts])
    return hashlib.sha256(content.encode()).hexdigest()


def _side(recipe: Recipe, files: list[SourceFile], common: dict[str, Any]) -> StoreWriter:
    data = recipe.data
    inputs = {
        **common,
        "stage_version": STAGE_VERSION,
        "window": WINDOW,
        "files": [[file.kind, content_hash(file)] for file in files],
        "format": data.format,
        "columns": data.columns,
        "train_on": data.train_on,
        "max_tokens": data.max_tokens,
        "over_long": data.over_long,
        "on_bad_record": data.on_bad_record,
    }
    identity = fingerprint(inputs)
    location = join(absolute(recipe.storage), "tokens", identity)
    return StoreWriter(location, {"fingerprint": identity, "inputs": inputs}, files, data.max_tokens)


def _make(
    sides: dict[bool, StoreWriter], stage: EncodeStage, progress: Progress | None
) -> dict[bool, tuple[str, dict[str, Any]]]:
    """(location, manifest) of each side, from the cache or by one pass over the files they share."""
    found = {key: read_manifest(side.location) for key, side in sides.items()}
    if not all(found.values()):
        for side in sides.values():
            check_writable(side.location)
        _run(sides, stage, progress)
        found = {key: side.finish() for key, side in sides.items()}
    else:
        for side in sides.values():
            logger.info("token store %s: cache hit", side.location)
    return {key: (sides[key].location, manifest) for key, manifest in found.items() if manifest is not None}


def _run(sides: dict[bool, StoreWriter], stage: EncodeStage, progress: Progress | None) -> None:
    files = next(iter(sides.values())).files
    starts = [sum(file.num_bytes for file in files[:index]) for index in range(len(files) + 1)]
    for table in _encoded(plan_reads(files), stage):
        failures = pc.drop_null(table.column("failure"))
        if len(failures):
            raise raised(failures[0].as_py())
        if progress and len(table):
            index, position = file_and_position(table.column("sample_id")[-1].as_py())
            inside = position if files[index].kind == "jsonl" and not files[index].compressed else 0
            progress("prepare", starts[index] + inside, starts[-1])
        for held_out, side in sides.items():
            rows = table.filter(pc.equal(table.column("held_out"), held_out))
            side.add(rows, fail_on_bad_record=stage.data.on_bad_record == "fail")
    if progress:
        progress("prepare", starts[-1], starts[-1])


def _encoded(tasks: list[ReadTask], stage: EncodeStage) -> Iterable[pa.Table]:
    """The tables of all tasks, in order, on Ray Data."""
    items = [
        {
            "index": task.file.index,
            "location": task.file.location,
            "kind": task.file.kind,
            "num_bytes": task.file.num_bytes,
            "start": task.start,
            "stop": task.stop,
        }
        for task in tasks
    ]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    context = dataset.context
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    encode: Any = _encode_item  # Ray's annotation leaves out fn_args
    encoded = dataset.map_batches(
        encode, batch_size=1, batch_format="pyarrow", fn_args=(stage,), zero_copy_batch=True
    )
    tables: Iterable[pa.Table] = encoded.iter_batches(batch_size=None, batch_format="pyarrow")
    return tables


def _encode_item(item: pa.Table, stage: EncodeStage) -> Iterator[pa.Table]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one task, one CPU: that is what Ray counts
    (row,) = item.to_pylist()
    kind: Kind = row["kind"]
    file = SourceFile(row["index"], row["location"], kind, row["num_bytes"])
    yield from encode_task(ReadTask(file, row["start"], row["stop"]), stage)
