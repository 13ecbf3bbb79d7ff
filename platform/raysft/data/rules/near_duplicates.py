"""Near duplicates among shards, on Ray: MinHash signatures cut into bands, equal bands verified, clusters joined.

Locality-sensitive hashing (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3): two records of
similarity s share at least one of b bands of r hashes with probability 1 - (1 - s^r)^b. Bands are partitioned by
their key over tasks; what the driver holds are pairs of line numbers, no signatures and no texts.

A line is a sample's number in the shards one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysft.data.on_ray import Item, on_ray, tables_on_ray
from raysft.data.store.shards import read_shard, take_samples
from raysft.recipe.cleaning import NearDuplicates
from raysft.storage import filesystem, join, remove_tree, write_bytes

_RECALL = 0.95
_LINES_PER_PARTITION = 100_000
_PAIRS_PER_TASK = 50_000
_ALL_PAIRS = 8  # records in a bucket up to which all of its pairs are looked at

Lines = NDArray[np.int64]

_ENTRY = np.dtype([("key", "<u8"), ("line", "<i8")])
_PAIR = pa.schema([("first", pa.int64()), ("second", pa.int64())])


def near_duplicates(
    shards: Sequence[str], starts: Lines, alive: NDArray[np.bool_], rule: NearDuplicates, work: str
) -> tuple[Lines, Lines]:
    """(every line that is not the first of its cluster, that first one), in order.

    Shard i holds the lines [starts[i], starts[i + 1]), of which those that are `alive` take part. The result does
    not depend on the cluster, on timing or on how the lines are cut into shards.
    """
    num_partitions = len(alive) // _LINES_PER_PARTITION + 1
    folder = join(work, "bands")
    cut = partial(_cut, shards=shards, shape=choose_bands(rule), num_partitions=num_partitions, folder=folder)
    items = []
    for index, (start, stop) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        items.append({"index": index, "start": start, "alive": np.packbits(alive[start:stop]).tobytes()})
    borders = np.zeros((len(shards), num_partitions + 1), np.int64)
    for index, found in on_ray(cut, items):
        borders[index] = found
    candidates = _pairs(
        tables_on_ray(
            partial(_meet, folder=folder),
            [{"from": borders[:, n].tolist(), "to": borders[:, n + 1].tolist()} for n in range(num_partitions)],
            ordered=False,
        )
    )
    chunks = [candidates[place : place + _PAIRS_PER_TASK] for place in range(0, len(candidates), _PAIRS_PER_TASK)]
    verify = partial(_verify, shards=shards, starts=starts, threshold=rule.threshold)
    pairs = _pairs(tables_on_ray(verify, [{"pairs": chunk.tobytes()} for chunk in chunks], ordered=False))
    remove_tree(folder)
    return _join(pairs)


def choose_bands(rule: NearDuplicates) -> tuple[int, int]:
    """(bands b, hashes in a band r), the longest that find 95% of the pairs at the threshold.

    Candidates that are less similar cost a look at their signatures, those that are not found stay in the data.
    """
    for rows in range(rule.num_hashes, 1, -1):
        bands = rule.num_hashes // rows
        if 1 - (1 - rule.threshold**rows) ** bands >= _RECALL:
            return bands, rows
    return rule.num_hashes, 1


def _cut(
    item: Item, *, shards: Sequence[str], shape: tuple[int, int], num_partitions: int, folder: str
) -> tuple[int, list[int]]:
    """Write a shard's bands sorted by partition; (shard, where each partition starts and the last one ends)."""
    column = read_shard(shards[item["index"]], ["signature"]).column("signature")
    alive = np.unpackbits(np.frombuffer(item["alive"], np.uint8), count=len(column)).astype(bool)
    words = _words(column)[alive]
    bands, rows = shape
    entries = np.empty((bands, len(words)), _ENTRY)
    for band in range(bands):
        entries[band]["key"] = _band_keys(words[:, band * rows : (band + 1) * rows], band)
    entries["line"] = np.flatnonzero(alive) + item["start"]
    flat = entries.ravel()
    partition = flat["key"] % np.uint64(num_partitions)
    write_bytes(_band_file(folder, item["index"]), flat[np.argsort(partition, kind="stable")].tobytes())
    sizes = np.bincount(partition.astype(np.int64), minlength=num_partitions)
    return item["index"], [0, *np.cumsum(sizes).tolist()]


def _words(column: pa.ChunkedArray) -> NDArray[np.uint32]:
    """Signatures as a matrix, without a copy of each as bytes."""
    width = column.type.byte_width // 4
    chunks = [
        np.frombuffer(chunk.buffers()[1], "<u4")[chunk.offset * width : (chunk.offset + len(chunk)) * width]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate([np.zeros(0, "<u4"), *chunks]).reshape(-1, width)


def _band_keys(words: NDArray[np.uint32], band: int) -> NDArray[np.uint64]:
    """A 64-bit key of every row's band."""
    keys = np.full(len(words), 0x9E3779B97F4A7C15 * (band + 1) % 2**64, np.uint64)
    for column in words.T:
        keys = (keys ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        keys ^= keys >> np.uint64(31)
    return keys


def _meet(item: Item, *, folder: str) -> Iterator[pa.Table]:
    """Pairs of lines that share a band of one partition. Of a large bucket not all: each line with the first one and
    with the one before."""
    bounds = zip(item["from"], item["to"], strict=True)
    entries = np.concatenate([_read_entries(_band_file(folder, n), *bound) for n, bound in enumerate(bounds)])
    entries = entries[np.lexsort((entries["line"], entries["key"]))]
    key, line = entries["key"], entries["line"]
    opens = np.ones(len(key), np.bool_)
    opens[1:] = key[1:] != key[:-1]
    first = np.maximum.accumulate(np.where(opens, np.arange(len(key)), 0))
    pairs = [np.column_stack([line[first[~opens]], line[~opens]])]
    small = (np.diff(np.flatnonzero(np.append(opens, True))) <= _ALL_PAIRS)[np.cumsum(opens) - 1]
    for back in range(1, _ALL_PAIRS):
        here = np.arange(back, len(key))
        here = here[(here - back > first[here]) & (small[here] | (back == 1))]
        pairs.append(np.column_stack([line[here - back], line[here]]))
    yield _table(np.unique(np.concatenate(pairs), axis=0))


def _read_entries(location: str, start: int, stop: int) -> NDArray[np.void]:
    fs, path = filesystem(location)
    with fs.open_input_file(path) as source:
        source.seek(start * _ENTRY.itemsize)
        return np.frombuffer(source.read((stop - start) * _ENTRY.itemsize), _ENTRY)


def _verify(item: Item, *, shards: Sequence[str], starts: Lines, threshold: float) -> Iterator[pa.Table]:
    """The pairs that are as similar as the rule asks, by their whole signatures."""
    pairs = np.frombuffer(item["pairs"], np.int64).reshape(-1, 2)
    lines, back = np.unique(pairs, return_inverse=True)
    shard = np.searchsorted(starts, lines, side="right") - 1
    words = _words(take_samples(shards, shard, lines - starts[shard], ["signature"]).column("signature"))
    left, right = back.reshape(-1, 2).T
    yield _table(pairs[(words[left] == words[right]).mean(axis=1) >= threshold])


def _table(pairs: Lines) -> pa.Table:
    return pa.table([pairs[:, 0], pairs[:, 1]], schema=_PAIR)


def _pairs(tables: Iterator[pa.Table]) -> Lines:
    """The pairs of all tables, sorted, each once."""
    whole = pa.concat_tables([_PAIR.empty_table(), *tables])
    return np.unique(np.column_stack([whole.column(name).to_numpy() for name in _PAIR.names]), axis=0)


def _join(pairs: Lines) -> tuple[Lines, Lines]:
    """Connected lines get the smallest number among them (Shiloach & Vishkin 1982: hook roots, jump to parents)."""
    lines, back = np.unique(pairs, return_inverse=True)
    left, right = back.reshape(-1, 2).T
    root = np.arange(len(lines))
    while not np.array_equal(root[left], root[right]):
        lowest = np.minimum(root[left], root[right])
        np.minimum.at(root, root[left], lowest)
        np.minimum.at(root, root[right], lowest)
        while not np.array_equal(root, root[root]):
            root = root[root]
    joined = root != np.arange(len(lines))
    return lines[joined], lines[root[joined]]


def _band_file(folder: str, shard: int) -> str:
    return join(folder, f"{shard:05d}.bin")
