"""Rows with the columns of an objective, as micro-batches."""

from __future__ import annotations

import numpy as np
import torch

from raysft.data.feed.collate import MicroBatch, collate
from raysft.data.store.packed_rows import Row
from raysft.recipe.columns import Field

D, V, K = 8, 19, 2


CPU = torch.device("cpu")


def row(lengths: list[int], fields: tuple[Field, ...], seed: int) -> Row:
    """Segments two to an atom; answers are the second halves."""
    draw, tokens = np.random.default_rng(seed), sum(lengths)
    per: dict[str, dict[str, np.ndarray]] = {"token": {}, "segment": {}, "atom": {}}
    for field in fields:
        count = {"token": tokens, "segment": len(lengths), "atom": len(lengths) // 2}[field.per]
        shape = (count, field.width) if field.width > 1 else (count,)
        values = draw.integers(0, V, shape) if field.dtype == "<i4" else np.log(draw.uniform(0.05, 0.4, shape))
        per[field.per][field.name] = values.astype(field.dtype)
    for name, ids in per["token"].items():
        if name.endswith("_ids"):
            ids[:, 1] = (ids[:, 0] + 1) % V
    return Row(
        {
            "input_ids": draw.integers(0, V, tokens).astype(np.int32),
            "target": np.concatenate([np.arange(n) >= n // 2 for n in lengths]).astype(np.float32),
            **per["token"],
        },
        {
            "length": np.array(lengths, np.int32),
            "sample_id": np.arange(len(lengths)),
            "atom": np.arange(len(lengths), dtype=np.int32) // 2,
            **per["segment"],
        },
        {name: values > np.median(values) for name, values in per["atom"].items()},
    )


def batches(fields: tuple[Field, ...]) -> list[MicroBatch]:
    rows = [[row([5, 3, 4, 6], fields, 1)], [row([2, 7], fields, 2), row([3, 3, 5, 4], fields, 3)]]
    return [
        *(collate(some, 0, packing=True, fields=fields) for some in rows),
        collate([], 1, packing=True, fields=fields),
    ]
