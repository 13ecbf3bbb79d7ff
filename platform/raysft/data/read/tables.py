"""Columnar files -> records: Parquet by row group, Arrow streams (Hugging Face `save_to_disk`) by record batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysft.data.read.arrow_values import rows_of
from raysft.data.read.json_values import MAX_RECORD_BYTES, too_large
from raysft.data.read.remote import local_path, open_bytes
from raysft.data.records import Refusal
from raysft.errors import DataError

_BATCH_ROWS = 256
_BATCH_BYTES = 8 << 20  # as Python objects some times that
_ALL = 1 << 40

Values = Iterator[tuple[int, dict[str, Any] | Refusal]]


def parquet_ranges(location: str) -> list[tuple[int, int]]:
    """One range per row group."""
    groups = _parquet(location).num_row_groups
    return [(group, group + 1) for group in range(groups)]


def read_parquet(location: str, start: int) -> Values:
    """(row, record) of one row group."""
    parquet = _parquet(location)
    metadata = parquet.metadata
    first = sum(metadata.row_group(group).num_rows for group in range(start))
    group = metadata.row_group(start)
    rows = _BATCH_BYTES // max(1, group.total_byte_size // max(1, group.num_rows))
    for batch in parquet.iter_batches(max(1, min(rows, _BATCH_ROWS)), row_groups=[start]):
        yield from _rows(batch, first)
        first += batch.num_rows


def arrow_ranges(location: str, range_bytes: int) -> list[tuple[int, int]]:
    """Ranges of record batches. A remote file is one: the batches of a stream are found by reading it."""
    if local_path(location) is None:
        return [(0, _ALL)]
    starts, size = [0], 0
    count = 0
    for batch in _batches(location):
        if size >= range_bytes:
            starts.append(count)
            size = 0
        size += batch.get_total_buffer_size()  # .nbytes follows offsets, which nobody has checked yet
        count += 1
    return list(zip(starts, [*starts[1:], count], strict=True))


def read_arrow(location: str, start: int, stop: int) -> Values:
    """(row, record) of the record batches [start, stop)."""
    first = 0
    for index, batch in enumerate(_batches(location)):
        if index >= stop:
            return
        if index >= start:
            batch.validate(full=True)  # offsets that lie would crash the process
            rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, batch.nbytes // max(1, batch.num_rows))))
            for offset in range(0, batch.num_rows, rows):
                yield from _rows(batch.slice(offset, rows), first + offset)
        first += batch.num_rows


def _batches(location: str) -> Iterator[pa.RecordBatch]:
    path = local_path(location)
    source = pa.PythonFile(open_bytes(location), mode="r") if path is None else pa.memory_map(path)
    with source:
        if source.read(6) == b"ARROW1":
            source.seek(0)
            file = pa.ipc.open_file(source)
            yield from map(file.get_batch, range(file.num_record_batches))
        else:
            source.seek(0)
            yield from pa.ipc.open_stream(source)


def _rows(batch: pa.RecordBatch, first: int) -> Values:
    if batch.nbytes <= MAX_RECORD_BYTES:
        try:
            yield from enumerate(rows_of(batch), first)
            return
        except (ValueError, OverflowError, pa.ArrowException):
            pass  # one at a time, to refuse only those that cannot be read
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        yield first + index, _row(row)


def _row(row: pa.RecordBatch) -> dict[str, Any] | Refusal:
    if row.nbytes > MAX_RECORD_BYTES:
        return too_large(row.nbytes)
    try:
        return rows_of(row)[0]
    except UnicodeDecodeError as error:
        return Refusal("invalid_utf8", str(error))
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return Refusal("unreadable_value", str(error))


def _parquet(location: str) -> pq.ParquetFile:
    path = local_path(location)
    source: Any = pa.PythonFile(open_bytes(location), mode="r") if path is None else path
    try:
        return pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{location} is not a Parquet file", got=str(error), expected="Parquet", fix="rewrite it"
        ) from error
