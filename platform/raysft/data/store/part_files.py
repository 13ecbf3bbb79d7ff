"""Parquet files of packed rows, opened when first read: nothing of one is believed before its bytes have their sum.

Each process compares when it first reads rows of a file (0.8 s a GiB), and each page when it is read (a file may go
bad while it is open). Rows are decoded in small groups, the latest kept in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysft.data.store.manifest import damaged_store, problem_of
from raysft.errors import RaysftError, StorageError
from raysft.storage import filesystem, join

UNREADABLE = (OSError, pa.ArrowException, KeyError, ValueError, OverflowError, MemoryError)
"""What Parquet raises of bytes that nobody wrote, or that the storage does not give."""


ROWS_PER_GROUP = 32
"""Rows of a row group in a store's parts: what is read at a time."""
PARQUET: dict[str, Any] = {
    "compression": "lz4",
    "use_dictionary": False,
    "write_statistics": False,
    "write_page_checksum": True,
}
"""How they are written: bytes depend on values alone."""


def part_name(index: int) -> str:
    """The file of part `index`."""
    return f"part-{index:05d}.parquet"


class PartFiles:
    """The files of `parts`, entries of a manifest with `name` and `sha256`. Groups are of rows_per_group rows."""

    def __init__(
        self, location: str, parts: Sequence[Mapping[str, Any]], *, rows_per_group: int, max_groups: int
    ) -> None:
        self._location, self._parts = location, parts
        self._rows_per_group, self._max_groups = rows_per_group, max_groups
        self._open: dict[int, pq.ParquetFile] = {}
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def at(self, part: int, row: int) -> tuple[pa.Table, int]:
        """(a table that holds row `row` of the part, where in it)."""
        return self._group(part, row // self._rows_per_group), row % self._rows_per_group

    def columns(self, part: int, names: Sequence[str]) -> pa.Table:
        """Some columns of a part, whole, without comparing the file's bytes. Raises UNREADABLE."""
        fs, path = filesystem(join(self._location, self._parts[part]["name"]))
        return pq.ParquetFile(fs.open_input_file(path)).read(columns=list(names)).select(names)

    def why(self, part: int, error: Exception) -> RaysftError:
        """The error of a part that cannot be read: of its bytes, or, if they are as written, of the storage."""
        location, sha256 = join(self._location, self._parts[part]["name"]), self._parts[part]["sha256"]
        if problem := problem_of(location, sha256):
            return damaged_store(location, problem)
        return StorageError(
            f"cannot read {location}",
            got=f"{type(error).__name__}: {error}",
            expected="a storage that answers",
            fix="run the same command again",
        )

    def _file(self, part: int) -> pq.ParquetFile:
        if part not in self._open:
            entry = self._parts[part]
            location = join(self._location, entry["name"])
            if problem := problem_of(location, entry["sha256"]):
                raise damaged_store(location, problem)
            fs, path = filesystem(location)
            self._open[part] = pq.ParquetFile(fs.open_input_file(path), page_checksum_verification=True)
        return self._open[part]

    def _group(self, part: int, group: int) -> pa.Table:
        key = (part, group)
        if key not in self._groups:
            try:
                self._groups[key] = self._file(part).read_row_group(group)
            except UNREADABLE as error:  # it was whole when it was opened
                raise self.why(part, error) from error
            if len(self._groups) > self._max_groups:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]
