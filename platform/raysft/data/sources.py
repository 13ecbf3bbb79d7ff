"""Where records come from: paths and URIs -> files -> read tasks -> records. No Ray, no formats.

A read task is an independent piece of a file; all tasks in order give all records in order, whatever their size.
A sample id is `file index << 40 | position`: the byte offset in JSON Lines, else the record's index; it is stable.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from raysft.data.records import Refusal
from raysft.errors import DataError
from raysft.storage import absolute, filesystem

logger = logging.getLogger(__name__)

RANGE_BYTES = 32 << 20
_POSITION_BITS = 40
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".json.gz": "json",
    ".parquet": "parquet",
}
_BOM = b"\xef\xbb\xbf"

Kind = Literal["jsonl", "json", "parquet"]


@dataclass(frozen=True)
class SourceFile:
    """One input file. `index` is its place in the sorted list."""

    index: int
    location: str
    kind: Kind
    num_bytes: int

    @property
    def compressed(self) -> bool:
        return self.location.endswith(".gz")


@dataclass(frozen=True)
class ReadTask:
    """A piece of a file: bytes [start, stop) of JSON Lines, row group `start` of Parquet, or all of it."""

    file: SourceFile
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class RawRecord:
    """One record, or why it is none."""

    sample_id: int
    value: dict[str, Any] | Refusal


def expand(locations: Sequence[str]) -> list[SourceFile]:
    """Files, directories, globs and URIs -> the sorted files. Raises DataError where there is none."""
    found = [info for location in locations for info in _expand_one(location)]
    unique = dict(sorted(found))
    if len(unique) < len(found):
        logger.warning("%d input files are listed more than once; each is read once", len(found) - len(unique))
    files = []
    for index, (location, num_bytes) in enumerate(unique.items()):
        if num_bytes == 0:
            raise DataError(
                f"the file {location} is empty", got="0 bytes", expected="records", fix="remove or refill it"
            )
        files.append(SourceFile(index, location, _kind(location), num_bytes))
    return files


def _expand_one(location: str) -> list[tuple[str, int]]:
    location = absolute(location)
    fs, path = filesystem(location)
    scheme = location.split("://", 1)[0] + "://" if "://" in location else ""
    info = fs.get_file_info(path)
    if info.type == pafs.FileType.File:
        _kind(location)
        return [(location, info.size)]
    if info.type == pafs.FileType.Directory:
        base, pattern = path, re.compile(".*")
    elif any(mark in path for mark in "*?["):
        base = path[: re.search(r"[*?\[]", path).start()].rpartition("/")[0]  # type: ignore[union-attr]
        pattern = _glob(path.lstrip("/"))
    else:
        raise _missing(location, fs, path)
    infos = fs.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
    files = [i for i in infos if i.type == pafs.FileType.File and pattern.fullmatch(i.path.lstrip("/"))]
    usable = [i for i in files if i.path.endswith(tuple(_SUFFIXES)) and not i.base_name.startswith(".")]
    if not usable:
        others = ", ".join(sorted(i.base_name for i in files)[:5]) or "no file"
        raise DataError(
            f"no input file in {location}",
            got=others,
            expected=f"files that end in {', '.join(_SUFFIXES)}",
            fix="check data.train / data.eval",
        )
    return [(scheme + i.path, i.size) for i in usable]


def _glob(pattern: str) -> re.Pattern[str]:
    """`**/` any directories, `*` and `?` within one name, `[...]` a set."""
    parts = re.split(r"(\*\*/|\*|\?|\[[^]]*\])", pattern)
    known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(known.get(part, part if part.startswith("[") else re.escape(part)) for part in parts))


def _kind(location: str) -> Kind:
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if location.endswith(suffix):
            return cast(Kind, _SUFFIXES[suffix])
    raise DataError(
        f"cannot read {location}",
        got=location.rpartition("/")[2],
        expected=f"a file that ends in {', '.join(_SUFFIXES)}",
        fix="convert it, or give it the suffix of what it is",
    )


def _missing(location: str, fs: pafs.FileSystem, path: str) -> DataError:
    parent, _, name = path.rpartition("/")
    siblings = [i.base_name for i in fs.get_file_info(pafs.FileSelector(parent or "/", allow_not_found=True))]
    near = difflib.get_close_matches(name, siblings, n=1)
    return DataError(
        f"there is no file {location}",
        got=f"{len(siblings)} other names in {parent}" if siblings else f"nothing in {parent}",
        expected="a file, a directory or a glob that matches something",
        fix=f"did you mean {near[0]!r}?" if near else "check data.train / data.eval",
    )


def content_hash(file: SourceFile) -> str:
    """sha256 of the file's bytes."""
    digest = hashlib.sha256()
    with _open_raw(file) as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def plan_reads(files: Iterable[SourceFile], range_bytes: int = RANGE_BYTES) -> list[ReadTask]:
    """Pieces of all files, in order."""
    tasks = []
    for file in files:
        if file.kind == "parquet":
            groups = _parquet(file).num_row_groups
            tasks += [ReadTask(file, group, group + 1) for group in range(groups)]
        elif file.kind == "json" or file.compressed:
            tasks.append(ReadTask(file))
        else:
            starts = range(0, file.num_bytes, range_bytes)
            tasks += [ReadTask(file, start, min(start + range_bytes, file.num_bytes)) for start in starts]
    return tasks


def read(task: ReadTask) -> Iterator[RawRecord]:
    """The task's records in order; a malformed one as a Refusal of reason `malformed_json`."""
    base, file = task.file.index << _POSITION_BITS, task.file
    try:
        if file.kind == "parquet":
            records = _read_parquet(task)
        elif file.kind == "json":
            records = _read_json(file)
        else:
            records = ((offset, _parse(line)) for offset, line in _lines(task) if line.strip())
        for position, value in records:
            yield RawRecord(base | position, value)
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        what, expected = f"cannot read {file.location}", f"a whole {file.kind} file{' in gzip' * file.compressed}"
        raise DataError(what, got=str(error), expected=expected, fix="make or fetch that file again") from error


def read_all(files: Iterable[SourceFile]) -> Iterator[RawRecord]:
    """All records of all files, in this process."""
    for task in plan_reads(files):
        yield from read(task)


def _lines(task: ReadTask) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the lines whose first byte lies in the range."""
    with _open(task.file) as stream:
        position = task.start
        if position:
            stream.seek(position - 1)
            position += len(stream.readline()) - 1
        while task.file.compressed or position < task.stop:
            line = stream.readline()
            if not line:
                return
            yield position, line.removeprefix(_BOM) if position == 0 else line
            position += len(line)


def _read_json(file: SourceFile) -> Iterator[tuple[int, dict[str, Any] | Refusal]]:
    """An array of objects, one object, or JSON Lines under the name .json."""
    with _open(file) as stream:
        data = stream.read().removeprefix(_BOM)
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError) as error:
        if data.lstrip()[:1] != b"{":
            raise DataError(
                f"{file.location} is not valid JSON",
                got=str(error),
                expected="an array of objects, or one object per line",
                fix="correct the file at that place",
            ) from error
        lines = data.split(b"\n")
        return ((index, _parse(line)) for index, line in enumerate(lines) if line.strip())
    records = whole if isinstance(whole, list) else [whole]
    return ((index, _checked(record)) for index, record in enumerate(records))


def _read_parquet(task: ReadTask) -> Iterator[tuple[int, dict[str, Any] | Refusal]]:
    parquet = _parquet(task.file)
    first = sum(parquet.metadata.row_group(group).num_rows for group in range(task.start))
    for batch in parquet.iter_batches(row_groups=[task.start]):
        for record in batch.to_pylist():
            yield first, record
            first += 1


def _parse(line: bytes) -> dict[str, Any] | Refusal:
    try:
        return _checked(json.loads(line))
    except (ValueError, RecursionError) as error:
        return Refusal("malformed_json", f"{error}: {line[:80].decode(errors='replace').strip()}")


def _checked(value: Any) -> dict[str, Any] | Refusal:
    return value if isinstance(value, dict) else Refusal("not_an_object", f"got a {type(value).__name__}")


def _parquet(file: SourceFile) -> pq.ParquetFile:
    fs, path = filesystem(file.location)
    try:
        return pq.ParquetFile(fs.open_input_file(path))
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{file.location} is not a Parquet file", got=str(error), expected="Parquet", fix="rewrite it"
        ) from error


def _open_raw(file: SourceFile) -> BinaryIO:
    fs, path = filesystem(file.location)
    return io.BufferedReader(fs.open_input_file(path), 1 << 20)


def _open(file: SourceFile) -> BinaryIO:
    raw = _open_raw(file)
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if file.compressed else raw


def file_and_position(sample_id: int) -> tuple[int, int]:
    """(file index, byte offset or record index)."""
    return sample_id >> _POSITION_BITS, sample_id & ((1 << _POSITION_BITS) - 1)


def describe_sample(sample_id: int, files: Sequence[SourceFile]) -> str:
    """`file:offset` for JSON Lines, `file#record` elsewhere."""
    index, position = file_and_position(sample_id)
    return f"{files[index].location}{':' if files[index].kind == 'jsonl' else '#'}{position}"


def describe_line(sample_id: int, files: Sequence[SourceFile]) -> str:
    """`file:line` (1-based) for JSON Lines, `file#record` elsewhere. Reads the file up to there."""
    index, position = file_and_position(sample_id)
    if files[index].kind != "jsonl":
        return describe_sample(sample_id, files)
    newlines = 0
    with _open(files[index]) as stream:
        while position > 0 and (block := stream.read(min(position, 1 << 22))):
            newlines += block.count(b"\n")
            position -= len(block)
    return f"{files[index].location}:{newlines + 1}"
