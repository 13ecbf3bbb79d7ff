"""Token stores of random samples."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raysft.data.store.packed_rows import pack_rows
from raysft.data.store.packing import pack
from raysft.data.store.parts import write_part


def examples(num: int, seed: int, *, vocab_size: int = 900) -> pa.Table:
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 60, num)
    return pa.table(
        {
            "sample_id": pa.array(np.arange(num) + seed * 1000, pa.int64()),
            "input_ids": pa.array(
                [random.integers(0, vocab_size, n).astype(np.int32) for n in lengths], pa.list_(pa.int32())
            ),
            "weight": pa.array(random.integers(1, 4, num) / 2, pa.float32()),
            "target": pa.array([(random.random(n) < 0.5).astype(np.uint8) for n in lengths], pa.list_(pa.uint8())),
        }
    )


def write(location: str, tables: list[pa.Table]) -> list[dict]:
    parts = []
    for index, table in enumerate(tables):
        lengths = table.column("input_ids").combine_chunks().value_lengths().to_numpy()
        parts.append(write_part(location, index, pack_rows(table, pack(lengths, 64))))
    return parts
