"""Where records come from: sources of the recipe -> files -> read tasks -> records. No Ray, no formats.

A read task is an independent piece of a file; all tasks in order give all records in order, whatever their size.
A sample id is `file index << 40 | position`: a byte offset in files of lines, else the record's index; it is stable.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from raysft.data.read.kinds import kind_of
from raysft.data.read.listing import Listed, list_files
from raysft.data.read.readers import LINES, byte_ranges, read_range
from raysft.data.read.remote import open_text_bytes, without_query
from raysft.data.read.splits import Purpose
from raysft.data.read.twins import check_twins
from raysft.data.read.web import is_web
from raysft.data.records import Refusal
from raysft.errors import DataError, redacted
from raysft.recipe.sections.data import SourceSection

logger = logging.getLogger(__name__)

MIN_RANGE_BYTES = 4 << 20
MAX_TASKS = 10_000
_WEB_RANGE_BYTES = 256 << 20  # a server of whole files sends all of one for each piece
_POSITION_BITS = 40
_PLANNERS = 16  # threads: planning waits for footers of remote files


@dataclass(frozen=True)
class SourceFile:
    """One input file. `index` is its place in the list; the last three are what its records mean."""

    index: int
    location: str
    kind: str
    num_bytes: int
    source: str = ""
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ReadTask:
    """A piece of a file: bytes, row groups or record batches [start, stop); stop 0: to the end."""

    file: SourceFile
    start: int = 0
    stop: int = 0


class RawRecord(NamedTuple):
    """One record, or why it is none."""

    sample_id: int
    value: dict[str, Any] | Refusal


def expand(
    sources: Sequence[str | SourceSection],
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    purpose: Purpose | None = None,
) -> list[SourceFile]:
    """The files of all sources, in the recipe's order and sorted within a source. Raises DataError for none.

    A file that two sources list, by whatever names and links, is read once, in the first; a source with a name of its
    own reads it again. Two files of one name that hold the same records (twins.py) are an error. `format` and
    `columns` are for sources that state none. purpose: what folders that hold named splits are read for; None: all of
    them are read.
    """
    sections = [SourceSection(path=(source,)) if isinstance(source, str) else source for source in sources]
    files: list[SourceFile] = []
    unnamed: list[SourceFile] = []
    seen: set[str] = set()
    repeated = 0
    for section, name in zip(sections, source_names(sections), strict=True):
        listed = [found for location in section.path for found in list_files(location, purpose)]
        unique: dict[str, Listed] = {}
        for found in sorted(listed, key=lambda found: found.location):
            unique.setdefault(found.identity, found)
        chosen = [v for k, v in unique.items() if section.name is not None or k not in seen]
        repeated += len(listed) - len(chosen)
        seen |= unique.keys()
        first = len(files)
        for one in chosen:
            meaning = section.columns if section.columns is not None else columns or {}
            files.append(
                SourceFile(
                    *(len(files), one.location, kind_of(one.location), one.num_bytes, name, section.format or format),
                    columns=dict(meaning),
                )
            )
        if section.name is None:
            unnamed += files[first:]
        else:
            check_twins((file.location, file.kind, file.num_bytes) for file in files[first:])
    check_twins((file.location, file.kind, file.num_bytes) for file in unnamed)
    if repeated:
        logger.warning("%d input files are listed more than once; each is read once", repeated)
    return files


def source_names(sections: Sequence[SourceSection]) -> list[str]:
    """Every source's name: its own, or that of its first path, with -2, -3... where it is taken."""
    taken = Counter(section.name for section in sections if section.name is not None)
    for name, num_sources in taken.items():
        if num_sources > 1:
            raise DataError(
                f"{num_sources} sources have the name {name!r}",
                got=", ".join(section.path[0] for section in sections if section.name == name),
                expected="a name of its own for every source",
                fix="rename one, or make them one source with several paths",
            )
    names = []
    for section in sections:
        if section.name is not None:
            names.append(section.name)
            continue
        default = default_name(section.path[0])
        numbered = chain([default], (f"{default}-{number}" for number in count(2)))
        names.append(next(name for name in numbered if name not in taken))
        taken[names[-1]] += 1
    return names


def default_name(path: str) -> str:
    """`data/gsm8k.jsonl.gz` -> gsm8k; of a directory or glob the last folder that is named."""
    plain = without_query(path).rstrip("/")
    parts = [part for part in plain.split("://")[-1].split("/") if not re.search(r"[*?\[{]", part)]
    last = parts[-1] if parts else plain
    while PurePosixPath(last).suffix[1:].isalnum() and len(PurePosixPath(last).suffix) <= 8:
        last = PurePosixPath(last).stem
    return last or "data"


def plan_reads(files: Sequence[SourceFile], range_bytes: int | None = None) -> list[ReadTask]:
    """Pieces of all files, in order: of 4 MiB (a few seconds of work), larger where there would be too many."""
    total_bytes = sum(file.num_bytes for file in files)
    size = range_bytes or max(MIN_RANGE_BYTES, total_bytes // MAX_TASKS)

    def pieces(file: SourceFile) -> list[ReadTask]:
        mine = max(size, _WEB_RANGE_BYTES) if is_web(file.location) else size
        found = byte_ranges(file.location, file.kind, file.num_bytes, mine)
        return [ReadTask(file, start, stop) for start, stop in found]

    with ThreadPoolExecutor(_PLANNERS) as pool:
        return [task for tasks in pool.map(pieces, files) for task in tasks]


def read(task: ReadTask) -> Iterator[RawRecord]:
    """The task's records in order; a bad one as a Refusal. Raises DataError for a file that cannot be read on."""
    base, file = task.file.index << _POSITION_BITS, task.file
    for position, value in read_range(file.location, file.kind, task.start, task.stop):
        yield RawRecord(base | position, value)


def read_all(files: Iterable[SourceFile]) -> Iterator[RawRecord]:
    """All records of all files, in this process. A file is planned when it is reached."""
    for file in files:
        for task in plan_reads([file]):
            yield from read(task)


def file_and_position(sample_id: int) -> tuple[int, int]:
    """(file index, byte offset or record index)."""
    return sample_id >> _POSITION_BITS, sample_id & ((1 << _POSITION_BITS) - 1)


def describe_sample(sample_id: int, files: Sequence[SourceFile]) -> str:
    """`file:offset` in files of lines, `file#record` elsewhere."""
    index, position = file_and_position(sample_id)
    return f"{redacted(files[index].location)}{':' if files[index].kind in LINES else '#'}{position}"


def describe_line(sample_id: int, files: Sequence[SourceFile]) -> str:
    """`file:line` (1-based) in files of lines, `file#record` elsewhere. Reads the file up to there."""
    index, position = file_and_position(sample_id)
    if files[index].kind not in LINES:
        return describe_sample(sample_id, files)
    newlines = 0
    with open_text_bytes(files[index].location) as stream:
        while position > 0 and (block := stream.read(min(position, 1 << 22))):
            newlines += block.count(b"\n")
            position -= len(block)
    return f"{redacted(files[index].location)}:{newlines + 1}"
