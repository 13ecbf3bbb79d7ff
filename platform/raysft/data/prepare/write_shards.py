"""One read task -> one shard: encoded, counted, written, in a task of a prepare. Its files are store/shards.py."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa

from raysft.data.hashing import HashedStream
from raysft.data.notes import merge_notes
from raysft.data.prepare.encode import EncodedBatch, EncodeStage, Reject, encode_task, sample_schema
from raysft.data.read.sources import ReadTask
from raysft.data.records import Refusal
from raysft.data.store.shards import FIRST_OF_A_REASON, SIDES, Summary, new_summary, publish_shard, shard_path
from raysft.errors import redacted
from raysft.storage import write_stream

_MAX_RECORD_CHARS = 100_000
_PRIVATE = ("pii:",)
"""Reasons whose records are not copied into the rejects file."""


def write_shard(work: str, index: int, task: ReadTask, stage: EncodeStage) -> Summary:
    """Encode a task into shard `index`. Atomic: the summary is written last."""
    summary = new_summary()
    rejects: list[str] = []
    with write_stream(shard_path(work, index)) as stream:
        hashed = HashedStream(stream)
        with pa.ipc.new_file(pa.PythonFile(hashed, mode="w"), sample_schema(stage)) as writer:
            for batch in encode_task(task, stage):
                count_batch(summary, batch)
                lines = [json.dumps(_reject(reject, task), ensure_ascii=False) + "\n" for reject in batch.rejects]
                rejects += lines
                for piece in batch.samples.combine_chunks().to_batches():
                    writer.write_batch(piece)
    publish_shard(work, index, summary, samples_sum=hashed.digest.hexdigest(), rejects="".join(rejects))
    return summary


def count_batch(summary: Summary, batch: EncodedBatch) -> None:
    """Add a batch to a summary."""
    summary["samples"] += len(batch.samples)
    summary["findings"].update(batch.findings)
    for side, notes in zip(SIDES, batch.notes, strict=True):
        merge_notes(summary["sides"][side]["notes"], notes)
    for (source, held_out), count in batch.num_records.items():
        summary["sides"][SIDES[held_out]]["records"] += count
        _of_source(summary, source, held_out)["records"] += count
    for reject in batch.rejects:
        side = summary["sides"][SIDES[reject.held_out]]
        side["refused"][reject.refusal.reason] += 1
        _of_source(summary, reject.source, reject.held_out)["refused"] += 1
        first = side["first"].setdefault(reject.refusal.reason, [])
        if len(first) < FIRST_OF_A_REASON:
            detail = reject.refusal.detail.encode(errors="replace").decode()
            first.append({"sample_id": reject.sample_id, "detail": detail, "malformed": reject.malformed})


def _reject(reject: Reject, task: ReadTask) -> dict[str, Any]:
    """A line of the rejects file. Long records are cut; those refused for what they disclose are left out."""
    record: Any = None
    if not isinstance(reject.record, Refusal) and not reject.refusal.reason.startswith(_PRIVATE):
        record = reject.record
        if len(text := json.dumps(record, ensure_ascii=False, default=str)) > _MAX_RECORD_CHARS:
            record = text[:_MAX_RECORD_CHARS]
    return {
        "file": redacted(task.file.location),
        "sample_id": reject.sample_id,
        "side": SIDES[reject.held_out],
        "reason": reject.refusal.reason,
        "detail": reject.refusal.detail,
        "record": json.loads(json.dumps(record, default=str)),
    }


def _of_source(summary: Summary, source: str, held_out: bool) -> Counter[str]:
    counts: Counter[str] = summary["sources"].setdefault(source, {}).setdefault(SIDES[held_out], Counter())
    return counts
