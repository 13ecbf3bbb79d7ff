"""Near duplicates among shards, on Ray: MinHash signatures cut into bands, equal bands verified, clusters joined.

Locality-sensitive hashing (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3): two records of
similarity s share at least one of b bands of r hashes with probability 1 - (1 - s^r)^b. Bands are partitioned by
their key over tasks; what the driver holds are pairs of places, no signatures and no texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysft.data.distribute import Item, on_ray
from raysft.data.shards import read_shard, take_samples
from raysft.recipe.rules import NearDuplicates
from raysft.storage import join, read_bytes, remove_tree, write_bytes

_SHARDS_PER_PARTITION = 8
_PAIRS_PER_TASK = 50_000

Places = NDArray[np.int64]
"""[n, 2]: (shard, row)."""


def near_duplicates(
    shards: Sequence[str], alive: Sequence[NDArray[np.bool_]], rule: NearDuplicates, work: str
) -> Places:
    """[n, 4] (shard, row, shard and row of the cluster's first record) of every record that is not the first.

    `alive` says which rows of each shard take part. The result does not depend on the cluster or on timing.
    """
    bands, rows = choose_bands(rule.threshold, rule.num_hashes)
    partitions = max(1, len(shards) // _SHARDS_PER_PARTITION)
    folder = join(work, "bands")
    cut = partial(_cut_item, shards=shards, bands=bands, rows=rows, partitions=partitions, folder=folder)
    items = [
        {"index": index, "alive": np.packbits(mask).tobytes(), "rows": len(mask)} for index, mask in enumerate(alive)
    ]
    for _ in on_ray(cut, items):
        pass
    pairs: set[tuple[int, int, int, int]] = set()
    join_ = partial(_join_item, folder=folder, num_shards=len(shards))
    for found in on_ray(join_, [{"partition": number} for number in range(partitions)]):
        pairs.update(map(tuple, found))
    ordered = np.array(sorted(pairs), np.int64).reshape(-1, 4)
    verify = partial(_verify_item, shards=shards, threshold=rule.threshold)
    chunks = [
        {"start": start, "pairs": ordered[start : start + _PAIRS_PER_TASK].tobytes()}
        for start in range(0, len(ordered), _PAIRS_PER_TASK)
    ]
    kept = np.zeros(len(ordered), np.bool_)
    for start, same in on_ray(verify, chunks):
        kept[start : start + len(same)] = same
    remove_tree(folder)
    return _clusters(ordered[kept])


def choose_bands(threshold: float, num_hashes: int) -> tuple[int, int]:
    """(bands b, rows r) with b x r <= num_hashes that miss least: the sum of the areas of false positives below the
    threshold and of false negatives above it is smallest."""
    grid = (np.arange(1000) + 0.5) / 1000
    best, choice = np.inf, (1, num_hashes)
    for rows in range(1, num_hashes + 1):
        bands = num_hashes // rows
        found = 1 - (1 - grid**rows) ** bands
        error = found[grid < threshold].sum() + (1 - found[grid >= threshold]).sum()
        if error < best:
            best, choice = error, (bands, rows)
    return choice


def _cut_item(item: Item, *, shards: Sequence[str], bands: int, rows: int, partitions: int, folder: str) -> None:
    """Write a shard's band keys, one file per partition: (key, row) of every band of every living record."""
    alive = np.unpackbits(np.frombuffer(item["alive"], np.uint8), count=item["rows"]).astype(bool)
    column = read_shard(shards[item["index"]], ["signature"]).column("signature").combine_chunks()
    where = np.flatnonzero(alive)
    chosen = column.take(pa.array(where))
    words = np.frombuffer(b"".join(chosen.to_pylist()), "<u4").reshape(len(where), -1) if len(where) else None
    for partition in range(partitions):
        found: list[NDArray[np.int64]] = []
        for band in range(bands if words is not None else 0):
            assert words is not None
            keys = _band_keys(words[:, band * rows : (band + 1) * rows], band)
            mine = keys % np.uint64(partitions) == partition
            found.append(np.stack([keys[mine].view(np.int64), where[mine]], axis=1))
        table = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
        write_bytes(_band_file(folder, partition, item["index"]), table.tobytes())


def _band_keys(words: NDArray[np.uint32], band: int) -> NDArray[np.uint64]:
    """A 64-bit key of every row's band."""
    keys = np.full(len(words), 0x9E3779B97F4A7C15 * (band + 1) % 2**64, np.uint64)
    with np.errstate(over="ignore"):
        for column in words.T:
            keys = (keys ^ column.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
            keys ^= keys >> np.uint64(31)
    return keys


def _join_item(item: Item, *, folder: str, num_shards: int) -> list[list[int]]:
    """Pairs (first, other) of records that share a band of this partition."""
    tables = []
    for shard in range(num_shards):
        table = np.frombuffer(read_bytes(_band_file(folder, item["partition"], shard)), np.int64).reshape(-1, 2)
        tables.append(np.column_stack([table[:, 0], np.full(len(table), shard), table[:, 1]]))
    entries = np.concatenate(tables)
    entries = entries[np.lexsort((entries[:, 2], entries[:, 1], entries[:, 0]))]
    first = np.ones(len(entries), np.bool_)
    first[1:] = entries[1:, 0] != entries[:-1, 0]
    leader = np.maximum.accumulate(np.where(first, np.arange(len(entries)), 0))
    others = np.flatnonzero(~first)
    pairs = np.column_stack([entries[leader[others], 1:], entries[others, 1:]])
    unique: list[list[int]] = np.unique(pairs, axis=0).tolist() if len(pairs) else []
    return unique


def _verify_item(item: Item, *, shards: Sequence[str], threshold: float) -> tuple[int, list[bool]]:
    """Which pairs are as similar as the rule asks, by their whole signatures."""
    pairs = np.frombuffer(item["pairs"], np.int64).reshape(-1, 4)
    places, back = np.unique(np.concatenate([pairs[:, :2], pairs[:, 2:]]), axis=0, return_inverse=True)
    table = take_samples(shards, places[:, 0], places[:, 1], ["signature"])
    words = np.frombuffer(b"".join(table.column("signature").to_pylist()), "<u4").reshape(len(places), -1)
    left, right = back.ravel()[: len(pairs)], back.ravel()[len(pairs) :]
    same = (words[left] == words[right]).mean(axis=1) >= threshold
    return item["start"], same.tolist()


def _clusters(pairs: Places) -> Places:
    """Join pairs into clusters; [n, 4] of all records but the first of each."""
    parent: dict[tuple[int, int], tuple[int, int]] = {}

    def root(place: tuple[int, int]) -> tuple[int, int]:
        while (up := parent.setdefault(place, place)) != place:
            parent[place] = parent[up]
            place = parent[place]
        return place

    for a, b, c, d in pairs.tolist():
        first, second = sorted((root((a, b)), root((c, d))))
        parent[second] = first
    joined = [(*place, *root(place)) for place in sorted(parent) if root(place) != place]
    return np.array(joined, np.int64).reshape(-1, 4)


def _band_file(folder: str, partition: int, shard: int) -> str:
    return join(folder, f"{partition:05d}", f"{shard:05d}.bin")
