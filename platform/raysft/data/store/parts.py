"""The token store: Parquet parts of packed rows and a manifest. pyarrow and numpy only.

`<storage>/tokens/<fingerprint>/part-*.parquet + manifest.json`; the manifest is written last: no manifest, no
store. It holds the sha256 of every part, and its own. Nothing of a part is believed before its bytes have that sum:
each process compares when it first reads rows of a part (0.8 s a GiB), each page when it is read (a file may go bad
while it is open), and the sizes of all rows by sums of their own.
Owns the layout on disk. How rows come to be is prepare.py; their order in training is step_plan.py.
"""

from __future__ import annotations

import hashlib
import io
import json
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

from raysft.data.store.manifest import MANIFEST, PROMPTS, damaged, problem_of, read_manifest
from raysft.errors import RaysftError, StorageError
from raysft.storage import filesystem, join, read_bytes, write_bytes

TOKEN_FIELDS = ("input_ids", "target")
_TYPES = {
    "token.input_ids": "<i4",
    "token.target": "u1",  # 1: trained
    "segment.length": "<i4",
    "segment.sample_id": "<i8",
    "segment.weight": "<f4",
    "segment.atom": "<i4",
}
"""Columns of bytes: Parquet's lists cost several times as much to write and to read."""
_SIZES = ("row.tokens", "row.squares")
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
        self._sizes: tuple[Array, Array] | None = None

    @classmethod
    def open(cls, location: str) -> TokenStore:
        """Raises StorageError when there is no finished store, DataError when its manifest is damaged."""
        manifest = read_manifest(location)
        if manifest is None:
            raise StorageError(
                f"there is no token store at {location}",
                got=f"no {MANIFEST}",
                expected="a store that `raysft prepare` finished",
                fix="run `raysft prepare` with this recipe",
            )
        return cls(location, manifest)

    @property
    def num_rows(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def windows(self) -> tuple[int, ...]:
        """Rows of each part: a part is a window."""
        return tuple(part["rows"] for part in self.manifest["parts"])

    def read_rows(self, indices: Sequence[int]) -> list[Row]:
        """The rows of these indices, in their order."""
        return [self._row(int(index)) for index in indices]

    def row_sizes(self) -> tuple[Array, Array]:
        """(tokens, sum of squared segment lengths) of every row, int64 [num_rows] each."""
        if self._sizes is None:
            sizes = pa.concat_tables([self._sizes_of(index) for index in range(len(self._ends))])
            tokens, squares = (sizes.column(name).to_numpy() for name in _SIZES)
            self._sizes = tokens, squares
        return self._sizes

    def _sizes_of(self, part: int) -> pa.Table:
        """The sizes of a part's rows, without hashing all of the part: training looks at those of all parts first."""
        entry = self.manifest["parts"][part]
        location = join(self.location, entry["name"])
        try:
            fs, path = filesystem(location)
            sizes = pq.ParquetFile(fs.open_input_file(path)).read(columns=list(_SIZES))
            is_intact = len(sizes) == entry["rows"] and _sizes_sum(sizes) == entry["sizes"]
        except _UNREADABLE as error:
            raise _why(location, entry["sha256"], error) from error
        if not is_intact:
            raise damaged(location, "the sizes of its rows are others than the manifest says")
        return sizes

    def _row(self, index: int) -> Row:
        if not 0 <= index < self.num_rows:
            raise IndexError(f"row {index} of a store of {self.num_rows} rows")
        part = bisect_right(self._ends, index)
        within = index - (self._ends[part - 1] if part else 0)
        return row_at(self._group(part, within // _ROWS_PER_GROUP), within % _ROWS_PER_GROUP)

    def _part(self, part: int) -> pq.ParquetFile:
        if part not in self._parts:
            entry = self.manifest["parts"][part]
            location = join(self.location, entry["name"])
            if problem := problem_of(location, entry["sha256"]):
                raise damaged(location, problem)
            fs, path = filesystem(location)
            self._parts[part] = pq.ParquetFile(fs.open_input_file(path), page_checksum_verification=True)
        return self._parts[part]

    def prompts(self) -> list[dict[str, Any]]:
        """The first held-out prompts: {sample_id, prompt, answer} each. Raises DataError where they are damaged."""
        wanted = self.manifest["prompts_sha256"]
        if wanted is None:
            return []
        location = join(self.location, PROMPTS)
        if problem := problem_of(location, wanted):
            raise damaged(location, problem)
        return [json.loads(line) for line in read_bytes(location).decode().split("\n")[:-1]]

    def _group(self, part: int, group: int) -> pa.Table:
        key = (part, group)
        if key not in self._groups:
            entry = self.manifest["parts"][part]
            try:
                self._groups[key] = self._part(part).read_row_group(group)
            except _UNREADABLE as error:  # it was whole when it was opened
                raise _why(join(self.location, entry["name"]), entry["sha256"], error) from error
            if len(self._groups) > self._max_groups:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


_UNREADABLE = (OSError, pa.ArrowException, KeyError, ValueError, OverflowError, MemoryError)
"""What Parquet raises of bytes that nobody wrote, or that the storage does not give."""


def _why(location: str, sha256: str, error: Exception) -> RaysftError:
    """The error of a part that cannot be read: of its bytes, or, if they are as written, of the storage."""
    if problem := problem_of(location, sha256):
        return damaged(location, problem)
    return StorageError(
        f"cannot read {location}",
        got=f"{type(error).__name__}: {error}",
        expected="a storage that answers",
        fix="run the same command again",
    )


def write_prompts(location: str, prompts: Sequence[Mapping[str, Any]]) -> str:
    """Write the held-out prompts of a store; returns their sha256 for its manifest."""
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in prompts).encode()
    write_bytes(join(location, PROMPTS), data)
    return hashlib.sha256(data).hexdigest()


def write_part(location: str, index: int, rows: pa.Table) -> dict[str, Any]:
    """Write part `index` (a table of pack_rows); returns its entry in the manifest. Bytes depend on values alone."""
    buffer = io.BytesIO()
    pq.write_table(
        rows,
        buffer,
        row_group_size=_ROWS_PER_GROUP,
        compression="lz4",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    name = f"part-{index:05d}.parquet"
    write_bytes(join(location, name), buffer.getvalue())
    return {
        "name": name,
        "rows": rows.num_rows,
        "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        "sizes": _sizes_sum(rows),
        "tokens": int(rows.column("row.tokens").to_numpy().sum()),
        "target_tokens": int(np.count_nonzero(_flat_values(rows, "token.target"))),
    }


def _sizes_sum(rows: pa.Table) -> str:
    """sha256 of the sizes of rows, in their order."""
    return hashlib.sha256(
        b"".join(rows.column(name).to_numpy().astype("<i8").tobytes() for name in _SIZES)
    ).hexdigest()


def pack_rows(samples: pa.Table, atoms: Sequence[NDArray[np.int64]]) -> pa.Table:
    """Packed rows as a table: fields of tokens and segments as the bytes of their values, `row.*` as numbers.

    `samples` has one line per atom (sample_id, weight, and the token fields as lists); `atoms` lists, for every
    row, the lines in it.
    """
    order = np.concatenate(atoms)
    atoms_in_row = np.fromiter(map(len, atoms), dtype=np.int64, count=len(atoms))
    row_ends = np.cumsum(atoms_in_row)
    starts = row_ends - atoms_in_row
    ends_there = np.cumsum(samples.column("input_ids").combine_chunks().value_lengths().to_numpy().astype(np.int64))
    lengths = np.diff(ends_there, prepend=0)[order]
    places = segment_places(ends_there[order] - lengths, lengths)
    token_ends = np.cumsum(lengths)[row_ends - 1]
    values = {f"token.{field}": (flat(samples.column(field))[places], token_ends) for field in TOKEN_FIELDS}
    values["segment.length"] = lengths, row_ends
    values["segment.sample_id"] = samples.column("sample_id").to_numpy()[order], row_ends
    values["segment.weight"] = samples.column("weight").to_numpy()[order], row_ends
    values["segment.atom"] = np.arange(len(order)) - np.repeat(starts, atoms_in_row), row_ends
    columns = {name: _bytes(array.astype(_TYPES[name], copy=False), ends) for name, (array, ends) in values.items()}
    columns["row.tokens"] = pa.array(np.add.reduceat(lengths, starts))
    columns["row.squares"] = pa.array(np.add.reduceat(lengths**2, starts))
    return pa.table(columns)


def unpack_rows(rows: pa.Table, order: NDArray[np.int64]) -> dict[str, Array]:
    """The token fields of the samples that the rows were packed of, flat: order[i] is the line of segment i."""
    lengths = _flat_values(rows, "segment.length").astype(np.int64)
    back = np.argsort(order)
    places = segment_places((np.cumsum(lengths) - lengths)[back], lengths[back])
    return {field: _flat_values(rows, f"token.{field}")[places] for field in TOKEN_FIELDS}


def segment_places(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    """Where the values of segments lie, one segment after the other: starts[0], starts[0] + 1, ..."""
    shift = starts - (np.cumsum(lengths) - lengths)
    places = np.arange(int(lengths.sum()), dtype=np.int32)
    places += np.repeat(shift.astype(np.int32), lengths)
    return places


def row_at(rows: pa.Table, index: int) -> Row:
    """Row `index` of a table of pack_rows; the mask becomes a weight per token."""
    fields: dict[str, dict[str, Array]] = {"token": {}, "segment": {}}
    for name, kind in _TYPES.items():
        group, _, field = name.partition(".")
        fields[group][field] = np.frombuffer(rows.column(name)[index].as_buffer(), dtype=kind)
    weight = np.repeat(fields["segment"]["weight"], fields["segment"]["length"])
    fields["token"]["target"] = fields["token"]["target"] * weight
    return Row(fields["token"], fields["segment"])


def flat(column: pa.ChunkedArray) -> Array:
    """The values of a column of lists, one after the other."""
    return column.combine_chunks().flatten().to_numpy()  # type: ignore[no-any-return]


def _flat_values(rows: pa.Table, name: str) -> Array:
    """The values of a column of bytes, of all rows one after the other."""
    column = rows.column(name).combine_chunks()
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].view(_TYPES[name])


def _bytes(values: Array, ends: NDArray[np.int64]) -> pa.Array:
    """An array of binaries: values up to each end, in their machine form (little-endian)."""
    offsets = np.concatenate((np.zeros(1, np.int32), (ends * values.itemsize).astype(np.int32)))
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), data])


def lists(flat: pa.Array, ends: NDArray[np.int64]) -> pa.Array:
    """An array of lists that end at `ends` of `flat`."""
    offsets = np.concatenate((np.zeros(1, dtype=np.int32), ends.astype(np.int32)))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
