"""The token store: Parquet parts of packed rows and a manifest. pyarrow and numpy only.

`<storage>/tokens/<fingerprint>/part-*.parquet + manifest.json`; the manifest is written last: no manifest, no
store. It holds the sha256 of every part, and its own. Parts are read as part_files.py does, the sizes of all rows by
sums of their own.
Owns the layout on disk. How rows come to be is prepare.py; their order in training is step_plan.py.
"""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysft.data.store.columns import StoreColumns
from raysft.data.store.manifest import MANIFEST, PROMPTS, damaged_store, problem_of, read_manifest
from raysft.data.store.packed_rows import Array, Row, most_segments, row_at, values_of
from raysft.data.store.part_files import PARQUET, ROWS_PER_GROUP, UNREADABLE, PartFiles, part_name
from raysft.errors import StorageError
from raysft.recipe.columns import TARGET, Field
from raysft.storage import join, read_bytes, write_bytes

_SIZES = ("row.tokens", "row.squares")
_CACHED_TOKENS = 16 << 20


class TokenStore:
    """A finished store, opened for reading, and on request columns beside it (columns.py)."""

    def __init__(self, location: str, manifest: dict[str, Any], columns: StoreColumns | None = None) -> None:
        self.location = location
        self.manifest = manifest
        self._columns = columns
        self._ends = list(accumulate(part["rows"] for part in manifest["parts"]))
        groups = max(2, _CACHED_TOKENS // (ROWS_PER_GROUP * int(manifest["max_tokens"])))
        self._files = PartFiles(location, manifest["parts"], rows_per_group=ROWS_PER_GROUP, max_groups=groups)
        self._sizes: tuple[Array, Array] | None = None

    @classmethod
    def open(cls, location: str, columns: str | None = None) -> TokenStore:
        """The store at a location; its rows have the columns at `columns`, too.

        Raises StorageError when one of them is not there or not finished, DataError when a manifest is damaged.
        """
        manifest = read_manifest(location)
        if manifest is None:
            raise StorageError(
                f"there is no token store at {location}",
                got=f"no {MANIFEST}",
                expected="a store that `raysft prepare` finished",
                fix="run `raysft prepare` with this recipe",
            )
        return cls(location, manifest, None if columns is None else StoreColumns.open(columns, manifest))

    @property
    def num_rows(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def fields(self) -> tuple[Field, ...]:
        """Columns besides input_ids. Stores of earlier versions, which do not list them, have the target."""
        own = tuple(Field(**field) for field in self.manifest.get("fields", [asdict(TARGET)]))
        return own if self._columns is None else own + self._columns.fields

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

    def most_segments(self) -> int:
        """Samples of the row that has most of them; 0 without rows."""
        counts = [0]
        for index in range(len(self._ends)):
            try:
                counts.append(most_segments(self._files.columns(index, ("segment.length",))))
            except UNREADABLE as error:
                raise self._files.why(index, error) from error
        return max(counts)

    def _sizes_of(self, part: int) -> pa.Table:
        """The sizes of a part's rows, without hashing all of the part: training looks at those of all parts first."""
        entry = self.manifest["parts"][part]
        try:
            sizes = self._files.columns(part, _SIZES)
            is_intact = len(sizes) == entry["rows"] and _sizes_sum(sizes) == entry["sizes"]
        except UNREADABLE as error:
            raise self._files.why(part, error) from error
        if not is_intact:
            location = join(self.location, entry["name"])
            raise damaged_store(location, "the sizes of its rows are others than the manifest says")
        return sizes

    def _row(self, index: int) -> Row:
        if not 0 <= index < self.num_rows:
            raise IndexError(f"row {index} of a store of {self.num_rows} rows")
        part = bisect_right(self._ends, index)
        within = index - (self._ends[part - 1] if part else 0)
        beside = () if self._columns is None else (self._columns.at(part, within),)
        return row_at(*self._files.at(part, within), *beside)

    def prompts(self) -> list[dict[str, Any]]:
        """The first held-out prompts: {sample_id, prompt, answer} each. Raises DataError where they are damaged."""
        wanted = self.manifest["prompts_sha256"]
        if wanted is None:
            return []
        location = join(self.location, PROMPTS)
        if problem := problem_of(location, wanted):
            raise damaged_store(location, problem)
        return [json.loads(line) for line in read_bytes(location).decode().split("\n")[:-1]]


def write_prompts(location: str, prompts: Sequence[Mapping[str, Any]]) -> str:
    """Write the held-out prompts of a store; returns their sha256 for its manifest."""
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in prompts).encode()
    write_bytes(join(location, PROMPTS), data)
    return hashlib.sha256(data).hexdigest()


def write_part(location: str, index: int, rows: pa.Table) -> dict[str, Any]:
    """Write part `index` (a table of pack_rows); returns its entry in the manifest. Bytes depend on values alone."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, row_group_size=ROWS_PER_GROUP, **PARQUET)
    name = part_name(index)
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
