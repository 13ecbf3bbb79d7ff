"""Samples -> parts of a token store: windows of 16,384 samples, each packed by itself. No Ray.

No packer state crosses a window, so windows can be made in any order, by any process, again after a failure,
or one by one in stream mode, always with the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysft.data.store.packing import pack
from raysft.data.store.parts import flat, pack_rows, unpack_rows, write_part
from raysft.data.store.shards import take_samples
from raysft.errors import PlatformError

WINDOW = 16_384
CURRICULUM_WINDOW = 1_024
"""Smaller: inside a window the order is the packer's."""

COLUMNS = ("sample_id", "weight", "input_ids", "target")
"""What packing needs of a sample."""


def pack_window(samples: pa.Table, max_tokens: int) -> pa.Table:
    """The packed rows (store.pack_rows) of one window, proven to be its samples: unpacked, they are the same."""
    lengths = samples.column("input_ids").combine_chunks().value_lengths().to_numpy()
    atoms = pack(lengths, max_tokens)
    rows = pack_rows(samples, atoms)
    for field, unpacked in unpack_rows(rows, np.concatenate(atoms)).items():
        if not np.array_equal(unpacked, flat(samples.column(field))):
            raise PlatformError(
                "packed rows do not hold the samples they were made of",
                got=f"another {field} after unpacking",
                expected="the same tokens and masks",
                fix="run the command again; if it stays, report it: this is a fault of raysft or of the machine",
            )
    return rows


def write_window(
    location: str,
    index: int,
    shards: Sequence[str],
    samples: tuple[NDArray[np.int64], NDArray[np.int64]],
    max_tokens: int,
) -> dict[str, Any]:
    """Pack the samples (shard, row) of window `index` and write them as a part; returns its manifest entry."""
    table = take_samples(shards, *samples, COLUMNS)
    masks = hashlib.sha256(flat(table.column("target")).tobytes()).hexdigest()
    part = write_part(location, index, pack_window(table, max_tokens))
    return {**part, "samples": len(table), "masks": masks}
