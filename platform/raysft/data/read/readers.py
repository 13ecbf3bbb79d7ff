"""The bytes of one range of one file -> records. No ids and no formats: positions and values.

A position is the byte offset in files of lines (JSON Lines, text), else the record's index in its file. What the
kinds mean: `.jsonl` one object per line; `.json` an array, or objects one after another; `.csv`, `.tsv` a header
and one record per row (all values text); `.txt` one document per line, as {text: ...}; `.md` one document per
file; `.parquet`; `.arrow` (Hugging Face datasets saved to disk).
A bad record is a Refusal; a file that cannot be read on is a DataError, behind the records before it.
"""

from __future__ import annotations

import codecs
import csv
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa

from raysft.data.read.json_values import MAX_RECORD_BYTES, parse_line, stream_values, too_large
from raysft.data.read.remote import compression, open_text_bytes
from raysft.data.read.tables import Values, arrow_ranges, parquet_ranges, read_arrow, read_parquet
from raysft.data.records import Refusal
from raysft.errors import DataError

KINDS = ("jsonl", "ndjson", "json", "csv", "tsv", "txt", "md", "parquet", "arrow")
LINES = ("jsonl", "ndjson", "txt")
"""Kinds whose positions are byte offsets; uncompressed, one file is read in parallel."""

_BLOCK_BYTES = 1 << 20
_JSON_BLOCK_BYTES = 256 << 10  # a block's records are all in memory
_END = 1 << 62
_ENCODINGS = {  # UTF-32 first: its mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def byte_ranges(location: str, kind: str, num_bytes: int, range_bytes: int) -> list[tuple[int, int]]:
    """[start, stop) of independent pieces: bytes, row groups or record batches; stop 0: to the end.

    JSON arrays, CSV (a line break may stand in quotes) and compressed files have no place to start in the middle.
    """
    with _data_errors(location, kind):
        if kind == "parquet":
            return parquet_ranges(location)
        if kind == "arrow":
            return arrow_ranges(location, range_bytes)
    if kind in LINES and not compression(location):
        return [(start, min(start + range_bytes, num_bytes)) for start in range(0, num_bytes, range_bytes)]
    return [(0, 0)]


def read_range(location: str, kind: str, start: int = 0, stop: int = 0) -> Values:
    """(position, record) of everything in the range, in order. Raises DataError, or StorageError if remote."""
    with _data_errors(location, kind):
        if kind == "parquet":
            yield from read_parquet(location, start)
        elif kind == "arrow":
            yield from read_arrow(location, start, stop or _END)
        else:
            with open_text_bytes(location) as stream:
                yield from _read_text(stream, location, kind, start, stop or _END)


@contextmanager
def _data_errors(location: str, kind: str) -> Iterator[None]:
    """What decoders raise, as a DataError that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, UnicodeDecodeError) as error:
        packed = compression(location)
        raise DataError(
            f"cannot read {location}",
            got=str(error) or type(error).__name__,
            expected=f"a whole {kind} file{f' in {packed[1:]}' if packed else ''}",
            fix="make or fetch that file again",
        ) from error


def _read_text(stream: BinaryIO, location: str, kind: str, start: int, stop: int) -> Values:
    if start:
        stream.seek(start - 1)
    head = stream.read(_JSON_BLOCK_BYTES)
    if not start:
        _check_encoding(head, location)
    blocks = chain([head], _blocks(stream, _JSON_BLOCK_BYTES if kind == "json" else _BLOCK_BYTES))
    if kind == "json":
        return _read_json(blocks, location)
    if kind == "md":
        return _read_document(blocks)
    lines = _lines(blocks, start, stop)
    if kind in ("csv", "tsv"):
        return _read_csv(lines, location, "," if kind == "csv" else "\t")
    read_line = _document if kind == "txt" else parse_line
    return (
        (position, line if isinstance(line, Refusal) else read_line(line))
        for position, line in lines
        if isinstance(line, Refusal) or not (line.isspace() or not line)
    )


def _blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while block := stream.read(size):
        yield block


def _check_encoding(head: bytes, location: str) -> None:
    for mark, name in _ENCODINGS.items():
        if head.startswith(mark):
            raise DataError(
                f"{location} is not in UTF-8",
                got=f"the byte-order mark of {name}",
                expected="UTF-8",
                fix=f"iconv -f {name} -t UTF-8 {location.rpartition('/')[2]}",
            )


def _lines(blocks: Iterator[bytes], start: int, stop: int) -> Iterator[tuple[int, bytes | Refusal]]:
    """(offset, line without \\n) of the lines whose first byte is in the range; blocks begin one byte before it.

    That byte tells whether a line begins at `start`: what comes before the first \\n belongs to another range.
    """
    position, dropping = max(start - 1, 0), start > 0
    parts: list[bytes] = []  # of the line that is not yet whole; none once it is over the limit
    size = 0
    for block in blocks:
        *whole, last = block.split(b"\n")
        if whole:
            parts.append(whole[0])
            size += len(whole[0])
            whole[0] = b"".join(parts)
            for line in whole:
                size = size or len(line)
                if position >= stop:
                    return
                if not dropping:
                    yield position, _whole(line, size, position)
                position, size, dropping = position + size + 1, 0, False
            parts = []
        parts.append(last)
        size += len(last)
        if size > MAX_RECORD_BYTES or dropping:
            parts = []
        if dropping and position + size >= stop:
            return  # one endless line, which began in an earlier range
    if size and position < stop and not dropping:
        yield position, _whole(b"".join(parts), size, position)


def _whole(line: bytes, size: int, position: int) -> bytes | Refusal:
    if size > MAX_RECORD_BYTES:
        return too_large(size)
    return line.removeprefix(codecs.BOM_UTF8) if position == 0 else line


def _read_json(blocks: Iterator[bytes], location: str) -> Values:
    head = b""
    while not head.strip() and (block := next(blocks, b"")):
        head = (head + block).removeprefix(codecs.BOM_UTF8)
    blocks = chain([head], blocks)
    first, newline, _ = head.lstrip().partition(b"\n")
    if newline and isinstance(parse_line(first), dict):  # JSON Lines under the name .json
        lines = (line for _, line in _lines(blocks, 0, _END))
        whole = (line for line in lines if isinstance(line, Refusal) or line.strip())
        return enumerate(line if isinstance(line, Refusal) else parse_line(line) for line in whole)
    if head.strip() and first[:1] not in (b"[", b"{"):
        raise DataError(
            f"{location} is not valid JSON",
            got=repr(first[:40].decode(errors="replace")),
            expected="an array of objects, or one object per line",
            fix="give the file the suffix of what it is",
        )
    return enumerate(stream_values(blocks, location, array=first[:1] == b"["))


def _read_document(blocks: Iterator[bytes]) -> Values:
    parts, size = [], 0
    for block in blocks:
        size += len(block)
        if size > MAX_RECORD_BYTES:
            yield 0, too_large(size)
            return
        parts.append(block)
    content = b"".join(parts).removeprefix(codecs.BOM_UTF8)
    if content.strip():
        yield 0, _document(content)


def _document(content: bytes) -> dict[str, Any] | Refusal:
    if b"\0" in content:
        return Refusal("nul_byte", f"text with a NUL byte: {content[:80]!r}")
    try:
        return {"text": content.decode().rstrip("\r")}
    except UnicodeDecodeError as error:
        return Refusal("invalid_utf8", str(error))


def _read_csv(lines: Iterator[tuple[int, bytes | Refusal]], location: str, delimiter: str) -> Values:
    """One record per row. Bytes that are no UTF-8 travel as lone surrogates until their row is known."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    oversized: list[Refusal] = []

    def texts() -> Iterator[str]:
        for _, line in lines:
            if isinstance(line, Refusal):
                oversized.append(line)
                yield "\n"
            else:
                yield line.decode(errors="surrogateescape") + "\n"

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    try:
        header = next((row for row in reader if row), [])
    except csv.Error as error:
        raise _bad_header(location, str(error)) from error
    if len(set(header)) < len(header) or not _is_text(header):
        raise _bad_header(location, ", ".join(header).encode(errors="replace").decode())
    index = 0
    while True:
        value: dict[str, Any] | Refusal
        try:
            row = next(reader)
            value = _record(row, header)
        except StopIteration:
            return
        except csv.Error as error:
            row, value = [""], Refusal("malformed_csv", f"row that ends in line {reader.line_num}: {error}")
        if oversized:
            row, value = [""], oversized.pop()
            oversized.clear()
        if row:
            yield index, value
            index += 1


def _record(row: list[str], header: list[str]) -> dict[str, Any] | Refusal:
    if len(row) != len(header):
        return Refusal("wrong_columns", f"{len(row)} fields; the header has {len(header)}: {str(row)[:80]}")
    if not _is_text(row):
        return Refusal("invalid_utf8", f"{row}"[:160].encode(errors="replace").decode())
    if any("\0" in field for field in row):
        return Refusal("nul_byte", f"a field with a NUL byte: {row}"[:160])
    return dict(zip(header, row, strict=True))


def _is_text(fields: list[str]) -> bool:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad_header(location: str, got: str) -> DataError:
    return DataError(
        f"the first row of {location} is no header",
        got=got[:200],
        expected="the columns' names in UTF-8, each once",
        fix="put the names into the first row",
    )
