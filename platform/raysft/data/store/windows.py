"""Samples -> parts of a token store: windows of 16,384 samples, each packed by itself. No Ray.

No packer state crosses a window, so windows can be made in any order, by any process, again after a failure,
or one by one in stream mode, always with the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysft.data.store.packed_rows import (
    TOKEN_FIELDS,
    atoms_of,
    first_of_atoms,
    flat,
    lists,
    pack_rows,
    packed_atoms,
    sample_values,
    segment_places,
    unpack_rows,
)
from raysft.data.store.packing import pack
from raysft.data.store.parts import write_part
from raysft.data.store.shards import take_samples
from raysft.errors import PlatformError
from raysft.recipe.columns import Field

WINDOW = 16_384
CURRICULUM_WINDOW = 1_024
"""Smaller: inside a window the order is the packer's."""

COLUMNS = ("sample_id", "weight", "input_ids", "target")
"""What packing needs of a sample."""


@dataclass(frozen=True)
class Contents:
    """What samples are, besides tokens."""

    has_atoms: bool = False
    """Each is several samples that belong together, with their lengths in a column `segments`."""
    fields: tuple[Field, ...] = ()
    """Further columns, a value an atom, or one of each of its segments."""

    @property
    def columns(self) -> list[str]:
        """What packing needs of them."""
        return [*COLUMNS, *(["segments"] if self.has_atoms else []), *(field.name for field in self.fields)]


def pack_window(samples: pa.Table, max_tokens: int, fields: Sequence[Field] = ()) -> pa.Table:
    """The packed rows (packed_rows.pack_rows) of one window, proven to be its samples: unpacked, they are the same.

    Lines that share a number in the column `atom`, where there is one, come into the same row.
    """
    lines = _lines_of_rows(samples, max_tokens)
    rows, order = pack_rows(samples, lines, fields), np.concatenate(lines)
    expected = {name: flat(samples.column(name)) for name in TOKEN_FIELDS}
    expected |= {field.name: sample_values(samples, field) for field in fields}
    different = [
        name
        for name, unpacked in unpack_rows(rows, order, fields).items()
        if not np.array_equal(unpacked, expected[name], equal_nan=unpacked.dtype.kind == "f")
    ]
    if not np.array_equal(first_of_atoms(packed_atoms(rows)[np.argsort(order)]), first_of_atoms(atoms_of(samples))):
        different.append("grouping of samples")
    if different:
        raise PlatformError(
            "packed rows do not hold the samples they were made of",
            got=f"another {different[0]} after unpacking",
            expected="the same tokens, masks and fields, and samples of an atom in one row",
            fix="run the command again; if it stays, report it: this is a fault of raysft or of the machine",
        )
    return rows


def apart(samples: pa.Table, fields: Sequence[Field] = ()) -> pa.Table:
    """A line for each of the `segments` of a sample, its number as `atom`, with the `fields`: an atom's value on each
    of its lines, a segment's on its own. Without that column: the samples."""
    if "segments" not in samples.column_names:
        return samples
    segments = samples.column("segments").combine_chunks()
    owners = pc.list_parent_indices(segments)
    ends = np.cumsum(segments.flatten().to_numpy(), dtype=np.int64)
    of_atoms = ("sample_id", "weight", *(field.name for field in fields if field.per == "atom"))
    columns = {name: samples.column(name).take(owners) for name in of_atoms}
    columns |= {one.name: pa.array(flat(samples.column(one.name))) for one in fields if one.per == "segment"}
    columns |= {name: lists(pa.array(flat(samples.column(name))), ends) for name in TOKEN_FIELDS}
    return pa.table({**columns, "atom": owners})


def _lines_of_rows(samples: pa.Table, max_tokens: int) -> list[NDArray[np.int64]]:
    """The lines of each row; those of an atom are packed as one length."""
    lengths = samples.column("input_ids").combine_chunks().value_lengths().to_numpy()
    if "atom" not in samples.column_names:
        return pack(lengths, max_tokens)
    starts = np.flatnonzero(first_of_atoms(atoms_of(samples)))
    counts = np.diff(starts, append=len(samples))
    rows = pack(np.add.reduceat(lengths.astype(np.int64), starts), max_tokens)
    return [segment_places(starts[atoms], counts[atoms]).astype(np.int64) for atoms in rows]


def write_window(
    location: str,
    index: int,
    shards: Sequence[str],
    samples: tuple[NDArray[np.int64], NDArray[np.int64]],
    max_tokens: int,
    contents: Contents = Contents(),
) -> dict[str, Any]:
    """Pack the samples (shard, row) of window `index` and write them as a part; returns its manifest entry."""
    table = take_samples(shards, *samples, contents.columns)
    masks = hashlib.sha256(flat(table.column("target")).tobytes()).hexdigest()
    part = write_part(location, index, pack_window(apart(table, contents.fields), max_tokens, contents.fields))
    return {**part, "samples": len(table), "masks": masks}
