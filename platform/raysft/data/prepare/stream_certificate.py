"""The certificate of a stream: what its first records become, before any worker starts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import pyarrow.compute as pc

from raysft.data.on_ray import Item, on_ray
from raysft.data.prepare.assemble import nothing_left
from raysft.data.prepare.encode import EncodeStage, encode_task
from raysft.data.prepare.fingerprint import Side
from raysft.data.prepare.write_shards import count_batch
from raysft.data.read.sources import ReadTask, describe_line, plan_reads
from raysft.data.rules.whole_data import Selection
from raysft.data.store.shards import merge_summaries, new_summary
from raysft.data.text.fitting import COUNTED

_BATCHES = 8
"""Batches of 256 records that are looked at."""


def sample_manifest(side: Side) -> dict[str, Any]:
    """A manifest whose counts are those of the first records. Raises DataError when they give nothing to train on."""
    tasks = plan_reads(side.files)
    (found,) = on_ray(partial(_look, tasks=tasks, stage=side.stage), [{"batches": _BATCHES}])
    summary, totals = found
    tokens, targets, truncated, *others = totals
    merged = merge_summaries([summary])
    if not targets:
        raise nothing_left(side, merged, Selection.none())
    read = merged["sides"]["train"]
    first = {
        reason: [
            {"where": describe_line(reject["sample_id"], side.files), "detail": reject["detail"]} for reject in all_
        ]
        for reason, all_ in read["first"].items()
    }
    return {
        "fingerprint": side.fingerprint,
        "inputs": side.inputs,
        "max_tokens": side.inputs["max_tokens"],
        "sampled": True,
        "counts": {
            "records_read": read["records"],
            "examples": merged["samples"],
            "refused": dict(read["refused"]),
            "findings": dict(merged["findings"]),
            "notes": read["notes"],
            "tokens": tokens,
            "target_tokens": targets,
            "truncated": truncated,
            **dict(zip(COUNTED, others, strict=True)),
        },
        "refusals": first,
    }


def _look(item: Item, *, tasks: Sequence[ReadTask], stage: EncodeStage) -> list[Any]:
    """[summary, [tokens, targets, truncated, *COUNTED]] of the first batches."""
    summary = new_summary()
    names = ("num_tokens", "num_targets", "truncated", *COUNTED)
    totals = [0] * len(names)
    for batch in islice((batch for task in tasks for batch in encode_task(task, stage)), item["batches"]):
        count_batch(summary, batch)
        for place, name in enumerate(names):
            totals[place] += pc.sum(batch.samples.column(name)).as_py() or 0
    return [summary, totals]
