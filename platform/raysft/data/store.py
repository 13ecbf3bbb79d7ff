"""The token store: Parquet parts of packed rows and a manifest. pyarrow and numpy only.

`<storage>/tokens/<fingerprint>/part-*.parquet + manifest.json`; the manifest is written last: no manifest, no
store. Owns the layout on disk. How rows come to be is prepare.py; their order in training is plan.py.
"""

from __future__ import annotations

import hashlib
import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raysft.errors import StorageError
from raysft.storage import filesystem, join, read_json, write_bytes, write_json

FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_ROWS_PER_GROUP = 32
_CACHED_TOKENS = 16 << 20

Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One packed row. `token_fields`: an entry per token; `segment_fields`: an entry per segment, with
    `length` (tokens), `sample_id` and `atom` (segments of one atom belong together)."""

    token_fields: dict[str, Array]
    segment_fields: dict[str, Array]

    @property
    def num_tokens(self) -> int:
        return int(self.segment_fields["length"].sum())


class TokenStore:
    """A finished store, opened for reading. Rows are decoded in small groups, the latest kept in memory."""

    def __init__(self, location: str, manifest: dict[str, Any]) -> None:
        self.location = location
        self.manifest = manifest
        self._ends = list(accumulate(part["rows"] for part in manifest["parts"]))
        self._parts: dict[int, pq.ParquetFile] = {}
        self._max_groups = max(2, _CACHED_TOKENS // (_ROWS_PER_GROUP * int(manifest["max_tokens"])))
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    @classmethod
    def open(cls, location: str) -> TokenStore:
        """Raises StorageError when there is no finished store."""
        manifest = read_manifest(location)
        if manifest is None:
            raise StorageError(
                f"there is no token store at {location}",
                got=f"no {_MANIFEST}",
                expected="a store that `raysft prepare` finished",
                fix="run `raysft prepare` with this recipe",
            )
        return cls(location, manifest)

    @property
    def num_rows(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read_rows(self, indices: Sequence[int]) -> list[Row]:
        """The rows of these indices, in their order."""
        return [self._row(int(index)) for index in indices]

    def _row(self, index: int) -> Row:
        if not 0 <= index < self.num_rows:
            raise IndexError(f"row {index} of a store of {self.num_rows} rows")
        part = bisect_right(self._ends, index)
        within = index - (self._ends[part - 1] if part else 0)
        table = self._group(part, within // _ROWS_PER_GROUP)
        fields: dict[str, dict[str, Array]] = {"token": {}, "segment": {}}
        for name in table.column_names:
            kind, _, field = name.partition(".")
            values = table.column(name)[within % _ROWS_PER_GROUP].values
            fields[kind][field] = values.to_numpy(zero_copy_only=False)
        return Row(fields["token"], fields["segment"])

    def _group(self, part: int, group: int) -> pa.Table:
        key = (part, group)
        if key not in self._groups:
            if part not in self._parts:
                fs, path = filesystem(join(self.location, self.manifest["parts"][part]["name"]))
                self._parts[part] = pq.ParquetFile(fs.open_input_file(path))
            self._groups[key] = self._parts[part].read_row_group(group)
            if len(self._groups) > self._max_groups:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def read_manifest(location: str) -> dict[str, Any] | None:
    """The manifest, or None: then there is no store."""
    try:
        manifest: dict[str, Any] = read_json(join(location, _MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if manifest.get("format_version") != FORMAT_VERSION:
        raise StorageError(
            f"the token store {location} is of another version",
            got=f"format {manifest.get('format_version')}",
            expected=f"format {FORMAT_VERSION}",
            fix="delete that directory; it is made again from the data",
        )
    return manifest


def write_manifest(location: str, manifest: Mapping[str, Any]) -> None:
    """The last write: from now on there is a store."""
    write_json(join(location, _MANIFEST), {"format_version": FORMAT_VERSION, **manifest})


def write_part(location: str, index: int, examples: pa.Table, atoms: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
    """Write part `index`; returns its entry in the manifest.

    `examples` has one line per atom (columns sample_id and the token fields as lists); `atoms` lists, for every
    row, the lines in it. The bytes depend on the values alone.
    """
    table = _rows(examples, atoms)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=_ROWS_PER_GROUP, compression="zstd")
    name = f"part-{index:05d}.parquet"
    write_bytes(join(location, name), buffer.getvalue())
    return {
        "name": name,
        "rows": table.num_rows,
        "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        "tokens": len(table.column("token.input_ids").combine_chunks().values),
        "target_tokens": int(np.count_nonzero(table.column("token.target").combine_chunks().values)),
    }


def _rows(examples: pa.Table, atoms: Sequence[NDArray[np.int64]]) -> pa.Table:
    order = np.concatenate(atoms)
    chosen = examples.take(pa.array(order)).combine_chunks()
    atoms_in_row = np.fromiter(map(len, atoms), dtype=np.int64, count=len(atoms))
    row_ends = np.cumsum(atoms_in_row)
    lengths = chosen.column("input_ids").combine_chunks().value_lengths().to_numpy()
    token_ends = np.cumsum(lengths)[row_ends - 1]
    columns: dict[str, pa.Array] = {}
    for field in chosen.column_names:
        if field != "sample_id":
            flat = chosen.column(field).combine_chunks().flatten()
            columns[f"token.{field}"] = _lists(flat, token_ends)
    within = np.arange(len(order)) - np.repeat(row_ends - atoms_in_row, atoms_in_row)
    columns["segment.length"] = _lists(pa.array(lengths, pa.int32()), row_ends)
    columns["segment.sample_id"] = _lists(chosen.column("sample_id").combine_chunks(), row_ends)
    columns["segment.atom"] = _lists(pa.array(within, pa.int32()), row_ends)
    return pa.table(columns)


def _lists(flat: pa.Array, ends: NDArray[np.int64]) -> pa.Array:
    offsets = np.concatenate((np.zeros(1, dtype=np.int32), ends.astype(np.int32)))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
