"""The certificate of a stream: what its first records become, before any worker starts."""

from __future__ import annotations

from functools import partial
from typing import Any

from raysft.data.on_ray import on_ray
from raysft.data.prepare.assemble import nothing_left
from raysft.data.prepare.fingerprint import Side
from raysft.data.prepare.tasks import count_first
from raysft.data.read.sources import describe_line, plan_reads
from raysft.data.rules.whole_data import Selection
from raysft.data.store.shards import merge_summaries
from raysft.data.text.fitting import COUNTED

_BATCHES = 8
"""Batches of 256 records that are looked at."""


def sample_manifest(side: Side) -> dict[str, Any]:
    """A manifest whose counts are those of the first records. Raises DataError when they give nothing to train on."""
    tasks = plan_reads(side.files)
    (found,) = on_ray(partial(count_first, tasks=tasks, stage=side.stage), [{"batches": _BATCHES}])
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
