"""Shards: what a read task leaves on storage, so that a killed prepare goes on where it was.

    <work>/shard-00012.arrow           samples (sample_columns.py), in the order of the records
    <work>/shard-00012.rejects.jsonl   refused records with their reasons; absent when there is none
    <work>/shard-00012.json            the summary: written last, no summary, no shard
    <work>/files.json                  what the input files were when the first shard was begun

A shard counts when its files have the sums that its summary holds, and the input files are those it was begun with.
Owns these files. write_shards.py makes what is in them, which samples go into a store is assemble.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs as pafs

from raysft.data.notes import merge_notes
from raysft.storage import (
    filesystem,
    join,
    list_names,
    read_bytes,
    read_json,
    remove_tree,
    write_bytes,
    write_json,
)

logger = logging.getLogger(__name__)

Summary = dict[str, Any]
"""{samples, rejected, sides: {train | eval: {records, refused: {reason: n}, first: {reason: [reject]}, notes}},
sources: {name: {train | eval: {records, refused}}}, findings: {name: n}}."""

SIDES = ("train", "eval")
FIRST_OF_A_REASON = 5
_SUMMARY = re.compile(r"shard-(\d{5,})\.json")


def publish_shard(work: str, index: int, summary: Summary, *, samples_sum: str, rejects: str) -> None:
    """Write the refused records (JSON lines) and last the summary, with the sha256 of the samples that lie there."""
    text = rejects.encode(errors="replace")
    if text:
        write_bytes(rejects_path(shard_path(work, index)), text)
    sums = {"samples": samples_sum, "rejects": _sum(text) if text else None}
    write_json(_path(work, index, "json"), {**sums, "sum": _sum_of(summary, sums), "summary": summary})


def read_summaries(work: str) -> dict[int, Summary]:
    """Summaries of the shards that are finished, by index; a shard that is damaged is none."""
    found = {}
    for name in list_names(work):
        if match := _SUMMARY.fullmatch(name):
            index = int(match[1])
            if (summary := _intact_summary(work, index)) is not None:
                found[index] = summary
            else:
                logger.warning("shard %d in %s is damaged: it is made again", index, work)
    return found


def resume(work: str, stamps: Sequence[str]) -> dict[int, Summary]:
    """read_summaries, where the input files still have the stamps that they had when the first shard was begun.

    Else nothing is kept: a shard may be of a file that somebody wrote to, and put back as it was.
    """
    location, now = join(work, "files.json"), [_sum(stamp.encode()) for stamp in stamps]
    try:
        is_same = all(stamps) and read_json(location) == now
    except (OSError, ValueError):
        is_same = False
    if not is_same:
        remove_tree(work)
        write_json(location, now)
    return read_summaries(work)


def _intact_summary(work: str, index: int) -> Summary | None:
    try:
        stored = read_json(_path(work, index, "json"))
        summary, sums = stored["summary"], {name: stored[name] for name in ("samples", "rejects")}
        if stored["sum"] != _sum_of(summary, sums):
            return None
        location = shard_path(work, index)
        if _sum(read_bytes(location)) != sums["samples"]:
            return None
        if sums["rejects"] is not None and _sum(read_bytes(rejects_path(location))) != sums["rejects"]:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(summary)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sum_of(summary: Summary, sums: dict[str, Any]) -> str:
    return _sum(json.dumps([summary, sums], sort_keys=True).encode())


def shard_path(work: str, index: int) -> str:
    """Location of a shard's samples."""
    return _path(work, index, "arrow")


def rejects_path(location: str) -> str:
    """Location of the refused records of the shard at `location`."""
    return location.removesuffix(".arrow") + ".rejects.jsonl"


def read_shard(location: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a shard, whole."""
    with _opened(location, columns) as reader:
        return reader.read_all()


def take_samples(
    locations: Sequence[str], shards: NDArray[np.int64], rows: NDArray[np.int64], columns: Sequence[str]
) -> pa.Table:
    """Samples (shards[i], rows[i]) as a table, in that order. Reads each shard's batches that hold any, once."""
    pieces: list[pa.Table] = []
    found: list[NDArray[np.int64]] = []
    for shard in np.unique(shards):
        places = np.flatnonzero(shards == shard)
        places = places[np.argsort(rows[places], kind="stable")]
        with _opened(locations[shard], columns) as reader:
            start = 0
            for number in range(reader.num_record_batches):
                if start > rows[places[-1]]:
                    break
                batch = reader.get_batch(number)
                first, last = np.searchsorted(rows[places], (start, start + batch.num_rows))
                if last > first:
                    pieces.append(_some_rows(pa.Table.from_batches([batch]), rows[places[first:last]] - start))
                    found.append(places[first:last])
                start += batch.num_rows
    back = np.empty(len(rows), np.int64)
    back[np.concatenate(found)] = np.arange(len(rows))
    table = pa.concat_tables(pieces)
    return table if np.array_equal(back, np.arange(len(rows))) else table.take(pa.array(back))


def _some_rows(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Rows in ascending order; a run of rows is not copied."""
    is_run = rows[-1] - rows[0] + 1 == len(rows) and np.all(np.diff(rows) == 1)
    return table.slice(rows[0], len(rows)) if is_run else table.take(pa.array(rows))


def merge_summaries(summaries: Sequence[Summary]) -> Summary:
    """Counts added up; the first examples of each reason kept."""
    total = new_summary()
    for summary in summaries:
        total["samples"] += summary["samples"]
        total["findings"].update(summary["findings"])
        for side in SIDES:
            ours, theirs = total["sides"][side], summary["sides"][side]
            merge_notes(ours["notes"], theirs["notes"])
            ours["records"] += theirs["records"]
            ours["refused"].update(theirs["refused"])
            for reason, rejects in theirs["first"].items():
                known = ours["first"].setdefault(reason, [])
                known += rejects[: FIRST_OF_A_REASON - len(known)]
        for name, sides in summary["sources"].items():
            for side, counts in sides.items():
                total["sources"].setdefault(name, {}).setdefault(side, Counter()).update(counts)
    return total


def new_summary() -> Summary:
    """Nothing counted yet."""
    sides = {side: {"records": 0, "refused": Counter(), "first": {}, "notes": {}} for side in SIDES}
    return {"samples": 0, "sides": sides, "sources": {}, "findings": Counter()}


def _path(work: str, index: int, suffix: str) -> str:
    return join(work, f"shard-{index:05d}.{suffix}")


@contextmanager
def _opened(location: str, columns: Sequence[str]) -> Iterator[pa.ipc.RecordBatchFileReader]:
    """An Arrow file reader that decodes only some columns; local files are mapped, not read."""
    fs, path = filesystem(location)
    with pa.memory_map(path) if isinstance(fs, pafs.LocalFileSystem) else fs.open_input_file(path) as source:
        names = pa.ipc.open_file(source).schema.names
        wanted = pa.ipc.IpcReadOptions(included_fields=sorted(names.index(column) for column in columns))
        yield pa.ipc.open_file(source, options=wanted)
