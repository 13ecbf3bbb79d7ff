"""Columns beside a token store, for the same rows in the same order: what the untrained model says of them.

    <store>/columns/<key>/part-00000.parquet      as many rows as the store's part, a column for each Field
    <store>/columns/<key>/manifest.json           written last: no manifest, no columns
    <store>/columns/<key>/done/part-00000.json    a finished part's entry, until there is a manifest

The key says of which rows, which columns, and what they were computed with. So a store keeps columns of several
models, and a killed computation goes on with the parts that are finished. Manifests are those of stores
(manifest.py), and parts are believed as those of stores are (part_files.py). Owns these files, not what is in them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysft import sealed
from raysft.data.hashing import HashedStream
from raysft.data.store.manifest import CHECKERS, MANIFEST, damaged_store, problem_of, read_manifest, write_manifest
from raysft.data.store.part_files import PARQUET, ROWS_PER_GROUP, PartFiles, part_name
from raysft.errors import DataError, StorageError
from raysft.recipe.columns import Field
from raysft.storage import join, remove_tree, write_stream

logger = logging.getLogger(__name__)

_GROUP_BYTES = 1 << 20
_CACHED_BYTES = 80 << 20
_ENTRY = {"name": str, "rows": int, "sha256": str}
_DONE = "done"

Manifest = Mapping[str, Any]


class StoreColumns:
    """Finished columns, opened for reading."""

    def __init__(self, location: str, manifest: Manifest) -> None:
        self.fields = tuple(Field(**field) for field in manifest["fields"])
        rows, size = manifest["rows_per_group"], manifest["row_bytes"]
        groups = max(2, _CACHED_BYTES // max(1, rows * size))
        self._files = PartFiles(location, manifest["parts"], rows_per_group=rows, max_groups=groups)

    @classmethod
    def open(cls, location: str, store: Manifest) -> StoreColumns:
        """The columns at a location. store: the manifest of the store that they stand beside.

        Raises StorageError when they are not there or not finished, DataError when they are damaged or another's.
        """
        manifest = read_manifest(location)
        if manifest is None:
            raise StorageError(
                f"there are no columns of a store at {location}",
                got=f"no {MANIFEST}",
                expected="columns that `raysft train` has finished",
                fix="run `raysft train` with this recipe",
            )
        if manifest["beside"] != _sums(store):
            raise damaged_store(join(location, MANIFEST), "its rows are those of another store")
        return cls(location, manifest)

    def at(self, part: int, row: int) -> tuple[pa.Table, int]:
        """(a table of packed_rows.columns_of that holds row `row` of the part, where in it)."""
        return self._files.at(part, row)


def columns_location(location: str, store: Manifest, fields: Sequence[Field], inputs: Mapping[str, Any]) -> str:
    """Where such columns of a store lie. inputs: what they are computed with, as JSON values."""
    told = {"beside": _sums(store), "fields": [asdict(field) for field in fields], "inputs": inputs}
    key = hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return join(location, "columns", key)


def write_columns_part(location: str, index: int, tables: Iterable[pa.Table], rows_per_group: int) -> dict[str, Any]:
    """Write part `index` and, last, its entry, which is returned. tables: of packed_rows.columns_of, in order.

    The part is never whole in memory.
    """
    name = part_name(index)
    with write_stream(join(location, name)) as stream:
        hashed = HashedStream(stream)
        num_rows = _write_groups(pa.PythonFile(hashed, mode="w"), tables, rows_per_group)
    entry = {"name": name, "rows": num_rows, "sha256": hashed.digest.hexdigest()}
    _write_entry(location, index, entry)
    return entry


def _write_groups(sink: pa.PythonFile, tables: Iterable[pa.Table], rows_per_group: int) -> int:
    """Row groups of that many rows each, but for the last one. Returns the number of rows."""
    waiting: pa.Table | None = None
    num_rows = 0
    with ExitStack() as stack:
        for table in tables:
            if waiting is None:
                writer = stack.enter_context(pq.ParquetWriter(sink, table.schema, **PARQUET))
                waiting = table
            else:
                waiting = pa.concat_tables([waiting, table])
            whole = len(waiting) // rows_per_group * rows_per_group
            if whole:
                writer.write_table(waiting.slice(0, whole), row_group_size=rows_per_group)
                waiting, num_rows = waiting.slice(whole), num_rows + whole
        if waiting is not None and len(waiting):
            writer.write_table(waiting)
            num_rows += len(waiting)
    return num_rows


def rows_per_group(store: Manifest, fields: Sequence[Field]) -> int:
    """Rows that are decoded together: as a store's, but fewer where a row has many bytes."""
    return max(1, min(ROWS_PER_GROUP, _GROUP_BYTES // max(1, _row_bytes(store, fields))))


def finished_parts(location: str, store: Manifest) -> dict[int, dict[str, Any]]:
    """{part: its entry} of the parts that are there as they were written. Reads all of them.

    A manifest that is damaged, or of a damaged part, is deleted, so that nobody takes it for one of columns.
    """
    try:
        manifest = read_manifest(location)
    except DataError as error:
        logger.warning("%s (%s): they are made anew", error.what, error.got)
        manifest = None
        remove_tree(join(location, MANIFEST))
    listed = {
        index: entry
        for index in range(len(store["parts"]))
        if (entry := manifest["parts"][index] if manifest else _read_entry(location, index)) is not None
    }
    found = {}
    with ThreadPoolExecutor(CHECKERS) as pool:
        sums = ((join(location, part_name(index)), entry["sha256"]) for index, entry in listed.items())
        problems = pool.map(lambda file: problem_of(*file), sums)
        for (index, entry), problem in zip(listed.items(), problems, strict=True):
            if problem is None and entry["rows"] != store["parts"][index]["rows"]:
                problem = "it has another number of rows"
            if problem is None:
                found[index] = entry
            else:
                logger.warning("%s is damaged (%s): it is made anew", join(location, part_name(index)), problem)
    if manifest and len(found) < len(store["parts"]):
        for index, entry in found.items():  # what is whole is kept, whatever ends this process
            _write_entry(location, index, entry)
        remove_tree(join(location, MANIFEST))
    return found


def is_published(location: str) -> bool:
    """Is there a manifest? Raises DataError for a damaged one."""
    return read_manifest(location) is not None


def publish_columns(
    location: str,
    store: Manifest,
    fields: Sequence[Field],
    inputs: Mapping[str, Any],
    entries: Mapping[int, Mapping[str, Any]],
) -> None:
    """The last write: from now on there are columns. Raises DataError where a part has not the store's rows."""
    for index, part in enumerate(store["parts"]):
        if entries[index]["rows"] != part["rows"]:
            raise damaged_store(
                join(location, part_name(index)), f"{entries[index]['rows']} rows instead of {part['rows']}"
            )
    content = {
        "fingerprint": location.rstrip("/").rpartition("/")[2],
        "store": store["fingerprint"],
        "beside": _sums(store),
        "inputs": dict(inputs),
        "fields": [asdict(field) for field in fields],
        "rows_per_group": rows_per_group(store, fields),
        "row_bytes": _row_bytes(store, fields),
        "parts": [dict(entries[index]) for index in range(len(store["parts"]))],
    }
    write_manifest(location, content)
    remove_tree(join(location, _DONE))


def _row_bytes(store: Manifest, fields: Sequence[Field]) -> int:
    """Bytes of a full row's values of tokens; those of segments are few."""
    of_token = sum(field.width * np.dtype(field.dtype).itemsize for field in fields if field.per == "token")
    return int(store["max_tokens"]) * of_token


def _sums(store: Manifest) -> list[str]:
    """What makes a store's rows those that they are."""
    return [part["sha256"] for part in store["parts"]]


def _entry_location(location: str, index: int) -> str:
    return join(location, _DONE, f"part-{index:05d}.json")


def _write_entry(location: str, index: int, entry: Mapping[str, Any]) -> None:
    """Sealed: the entry's own `sha256` is the part's."""
    sealed.write(_entry_location(location, index), {"entry": dict(entry)})


def _read_entry(location: str, index: int) -> dict[str, Any] | None:
    record = sealed.read(_entry_location(location, index), {"entry": dict})
    return None if record is None or sealed.problem_of(record["entry"], _ENTRY) else record["entry"]
