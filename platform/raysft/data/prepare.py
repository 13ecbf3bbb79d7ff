"""Recipe -> token stores, on Ray Data. Composes the stages; a finished store is a cache hit.

Read tasks are encoded by stateless Ray Data tasks; the driver reads the samples in order, cuts windows of
16,384 and lets a task pack and write each. Content and names depend on the data alone, never on the cluster,
so a rerun after a failure rewrites the same bytes. What tasks do is stage.py, the layout on disk store.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
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
    describe_line,
    expand,
    file_and_position,
    plan_reads,
)
from raysft.data.stage import EncodeStage, encode_task, raised, write_window
from raysft.data.store import read_manifest, write_manifest
from raysft.data.tokenizer import load_tokenizer, template_for, tokenizer_hash, tokenizer_source
from raysft.errors import ClusterError, DataError, RaysftError
from raysft.recipe.schema import Recipe
from raysft.storage import absolute, join, write_bytes

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
"""Raise it when the same inputs would give other tokens or rows."""
WINDOW = 16_384
MAX_PROMPTS = 1024
_PARTS_IN_FLIGHT = 4
_EXAMPLES_PER_REASON = 5

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Prepared:
    """Where the stores are, and what they hold."""

    train: str
    eval: str | None
    train_manifest: dict[str, Any]
    eval_manifest: dict[str, Any] | None


@dataclass
class _Side:
    """A store being written: what was counted so far and the window that is filling."""

    location: str
    inputs: dict[str, Any]
    files: list[SourceFile]
    max_tokens: int
    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    window: list[pa.Table] = field(default_factory=list)
    waiting: int = 0
    parts: list[Any] = field(default_factory=list)


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
    source = tokenizer_source(recipe)
    tokenizer = load_tokenizer(source, revision=model.revision, trust_remote_code=model.trust_remote_code)
    template = template_for(data.template, tokenizer)
    share = 0.0 if data.eval else data.eval_fraction
    common = {"tokenizer": tokenizer_hash(tokenizer), "template": _template_hash(template)}

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


def fingerprint(inputs: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of everything that changes tokens or rows."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _template_hash(template: Template) -> str:
    content = json.dumps([template.text, template.special_tokens.named, template.special_tokens.texts])
    return hashlib.sha256(content.encode()).hexdigest()


def _side(recipe: Recipe, files: list[SourceFile], common: dict[str, Any]) -> _Side:
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
    location = join(absolute(recipe.storage), "tokens", fingerprint(inputs))
    return _Side(location, inputs, files, data.max_tokens)


def _make(
    sides: dict[bool, _Side], stage: EncodeStage, progress: Progress | None
) -> dict[bool, tuple[str, dict[str, Any]]]:
    """(location, manifest) of each side, from the cache or by one pass over the files they share."""
    found = {key: read_manifest(side.location) for key, side in sides.items()}
    if not all(found.values()):
        _run(sides, stage, progress)
        found = {key: _finish(side) for key, side in sides.items()}
    else:
        for side in sides.values():
            logger.info("token store %s: cache hit", side.location)
    return {key: (sides[key].location, manifest) for key, manifest in found.items() if manifest is not None}


def _run(sides: dict[bool, _Side], stage: EncodeStage, progress: Progress | None) -> None:
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
            _add(side, table.filter(pc.equal(table.column("held_out"), held_out)), stage)
    for side in sides.values():
        _flush(side)
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
    (row,) = item.to_pylist()
    kind: Kind = row["kind"]
    file = SourceFile(row["index"], row["location"], kind, row["num_bytes"])
    yield from encode_task(ReadTask(file, row["start"], row["stop"]), stage)


def _add(side: _Side, table: pa.Table, stage: EncodeStage) -> None:
    """Count a table's samples and put its examples into windows."""
    side.counts["records_read"] += len(table)
    accepted = pc.is_null(table.column("reason"))
    for row in table.filter(pc.invert(accepted)).select(["sample_id", "reason", "detail", "bad_record"]).to_pylist():
        if row["bad_record"] and stage.data.on_bad_record == "fail":
            raise DataError(
                f"a bad record at {describe_line(row['sample_id'], side.files)}",
                got=f"{row['reason']}: {row['detail']}",
                expected="only good records, because data.on_bad_record is `fail`",
                fix="correct the record, or set data.on_bad_record: refuse to count and skip it",
            )
        side.refused[row["reason"]] += 1
        examples = side.refusals.setdefault(row["reason"], [])
        if len(examples) < _EXAMPLES_PER_REASON:
            where = describe_line(row["sample_id"], side.files)
            examples.append({"where": where, "detail": row["detail"]})
    examples_table = table.filter(accepted)
    side.counts["examples"] += len(examples_table)
    side.counts["truncated"] += pc.sum(examples_table.column("truncated")).as_py() or 0
    side.counts["straddles"] += pc.sum(examples_table.column("straddles")).as_py() or 0
    if len(side.prompts) < MAX_PROMPTS and side.inputs["side"] == "eval":
        rows = examples_table.select(["sample_id", "prompt", "answer"])
        side.prompts += rows.slice(0, MAX_PROMPTS - len(side.prompts)).to_pylist()
    if len(examples_table):
        side.window.append(examples_table.select(["sample_id", "input_ids", "target"]))
        side.waiting += len(examples_table)
    while side.waiting >= WINDOW:
        joined = pa.concat_tables(side.window)
        _submit(side, joined.slice(0, WINDOW))
        side.window, side.waiting = [joined.slice(WINDOW)], side.waiting - WINDOW


def _flush(side: _Side) -> None:
    if side.waiting:
        _submit(side, pa.concat_tables(side.window))
        side.window, side.waiting = [], 0


def _submit(side: _Side, window: pa.Table) -> None:
    """Write a window as the next part. The task takes no CPU: encoders that wait for us may hold them all."""
    if len(side.parts) >= _PARTS_IN_FLIGHT:
        ray.wait([side.parts[-_PARTS_IN_FLIGHT]])
    write = ray.remote(write_window).options(num_cpus=0)
    side.parts.append(write.remote(side.location, len(side.parts), window.combine_chunks(), side.max_tokens))


def _finish(side: _Side) -> dict[str, Any]:
    """Check that there is something, write prompts and the manifest, return the manifest."""
    if not side.counts["examples"]:
        raise _nothing_left(side)
    try:
        parts: list[dict[str, Any]] = ray.get(side.parts)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RaysftError):
            raise error.cause from None
        raise
    if side.inputs["side"] == "eval":
        lines = "".join(json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in side.prompts)
        write_bytes(join(side.location, "prompts.jsonl"), lines.encode())
    tokens, targets, rows = (sum(part[key] for part in parts) for key in ("tokens", "target_tokens", "rows"))
    manifest = {
        "fingerprint": fingerprint(side.inputs),
        "inputs": side.inputs,
        "parent": None,
        "max_tokens": side.max_tokens,
        "tokenizer_hash": side.inputs["tokenizer"],
        "template_hash": side.inputs["template"],
        "files": [file.location for file in side.files],
        "counts": {
            **{key: side.counts[key] for key in ("records_read", "examples", "truncated", "straddles")},
            "refused": dict(sorted(side.refused.items())),
            "tokens": tokens,
            "target_tokens": targets,
            "target_tokens_by_role": {"assistant": targets},
            "rows": rows,
            "fill": round(tokens / (rows * side.max_tokens), 6),
        },
        "refusals": side.refusals,
        "prompts": len(side.prompts),
        "parts": parts,
    }
    write_manifest(side.location, manifest)
    return read_manifest(side.location) or manifest


def _nothing_left(side: _Side) -> DataError:
    reasons = "; ".join(
        f"{count} x {reason} (first: {side.refusals[reason][0]['where']}: {side.refusals[reason][0]['detail']})"
        for reason, count in side.refused.most_common()
    )
    if side.inputs["side"] == "eval" and not side.refused:
        return DataError(
            "no sample is held out",
            got=f"data.eval_fraction {side.inputs['held_out']} of few records",
            expected="at least one held-out sample",
            fix="raise data.eval_fraction, or name held-out files in data.eval",
        )
    return DataError(
        f"no sample is left of {side.counts['records_read']} records",
        got=reasons or "files without a record",
        expected="records of a known format that fit the template and data.max_tokens",
        fix="see the first example of each reason; set data.format, data.columns or data.max_tokens",
    )
