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
from dataclasses import asdict
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysft.data.store.manifest import MANIFEST, PROMPTS, damaged, problem_of, read_manifest
from raysft.data.store.packed_rows import Array, Row, row_at, values_of
from raysft.errors import RaysftError, StorageError
from raysft.recipe.columns import TARGET, Field
from raysft.storage import filesystem, join, read_bytes, write_bytes

_SIZES = ("row.tokens", "row.squares")
_ROWS_PER_GROUP = 32
_CACHED_TOKENS = 16 << 20


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
    def fields(self) -> tuple[Field, ...]:
        """Columns besides input_ids. Stores of earlier versions, which do not list them, have the target."""
        return tuple(Field(**field) for field in self.manifest.get("fields", [asdict(TARGET)]))

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
        "target_tokens": int(np.count_nonzero(values_of(rows, "token.target"))),
    }


def _sizes_sum(rows: pa.Table) -> str:
    """sha256 of the sizes of rows, in their order."""
    return hashlib.sha256(
        b"".join(rows.column(name).to_numpy().astype("<i8").tobytes() for name in _SIZES)
    ).hexdigest()
