"""Do two token stores, of whatever versions, hold the same rows in the same order? Reads both where bytes differ."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from raysft.data.store.manifest import part_sums
from raysft.storage import filesystem, join


def have_same_rows(one: str, other: str) -> bool:
    """False also where one of them is gone or cannot be read."""
    sums = [part_sums(location) for location in (one, other)]
    if sums[0] is None or sums[1] is None or [rows for rows, _ in sums[0]] != [rows for rows, _ in sums[1]]:
        return False
    if sums[0] == sums[1]:
        return True
    names = [f"part-{index:05d}.parquet" for index in range(len(sums[0]))]
    try:
        return all(_table(join(one, name)).equals(_table(join(other, name))) for name in names)
    except (OSError, pa.ArrowException):
        return False


def _table(location: str) -> pa.Table:
    fs, path = filesystem(location)
    return pq.read_table(path, filesystem=fs)
