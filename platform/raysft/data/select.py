"""Whole-data rules: which samples go because of other samples. Decides by the keys in the shards.

The rules run in the recipe's order, each on what the ones before left; of samples that are the same, the first in
the order of the records stays. So the decision depends on the data alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raysft.data.near import near_duplicates
from raysft.data.shards import read_shard
from raysft.recipe.rules import (
    WHOLE_DATA,
    Conflicts,
    Contamination,
    ExactDuplicates,
    Leakage,
    NearDuplicates,
    Rule,
)
from raysft.storage import join, write_stream

_CLUSTERS_SHOWN = 20
_MEMBERS_SHOWN = 5

Lines = NDArray[np.int64]
DROPPED = pa.schema(
    [
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("reason", pa.string()),
        ("like", pa.int64()),  # the sample that it repeats or contradicts; -1: none
    ]
)


@dataclass(frozen=True)
class Selection:
    """What the rules decided."""

    dropped: pa.Table
    """DROPPED, in the order of the records."""
    counts: dict[str, int] = field(default_factory=dict)
    """Samples that each rule hit, also where it only reports."""
    clusters: list[dict[str, Any]] = field(default_factory=list)
    """The largest groups of duplicates: {rule, size, members: the first sample ids}."""

    @classmethod
    def none(cls) -> Selection:
        """Nothing was compared."""
        return cls(DROPPED.empty_table())


@dataclass
class _Samples:
    """The training samples of all shards, a line each; `alive`: no rule dropped it yet."""

    shards: Sequence[str]
    shard: Lines
    row: Lines
    id: Lines
    keys: dict[str, NDArray[Any]]
    alive: NDArray[np.bool_]
    held_out_prompts: Lines


def select(train_shards: Sequence[str], eval_shards: Sequence[str], rules: Sequence[Rule], *, out: str) -> Selection:
    """Decide about the training samples of some shards; near-duplicate clusters are kept under `out`."""
    wanted = [rule for rule in rules if isinstance(rule, WHOLE_DATA)]
    if not wanted:
        return Selection.none()
    samples = _read(train_shards, eval_shards, wanted)
    counts: dict[str, int] = {}
    clusters: list[dict[str, Any]] = []
    pieces = [DROPPED.empty_table()]
    for rule in wanted:
        hit, like = _hits(rule, samples, out)
        counts[rule.rule] = counts.get(rule.rule, 0) + len(hit)
        if isinstance(rule, ExactDuplicates | NearDuplicates):
            found = _shown(rule.rule, samples, hit, like)
            clusters += found
        if rule.action == "drop":
            samples.alive[hit] = False
            pieces.append(
                pa.table(
                    {
                        "shard": pa.array(samples.shard[hit], pa.int32()),
                        "row": pa.array(samples.row[hit], pa.int32()),
                        "reason": pa.array([rule.rule] * len(hit), pa.string()),
                        "like": pa.array(np.where(like < 0, -1, samples.id[like])),
                    },
                    schema=DROPPED,
                )
            )
    dropped = pa.concat_tables(pieces).sort_by([("shard", "ascending"), ("row", "ascending")])
    return Selection(dropped, counts, clusters)


def _read(train_shards: Sequence[str], eval_shards: Sequence[str], rules: Sequence[Rule]) -> _Samples:
    """The keys of all samples; those of held-out ones only for `leakage`."""
    names = []
    if any(isinstance(rule, ExactDuplicates) for rule in rules):
        names.append("exact")
    if any(isinstance(rule, Leakage | Conflicts) for rule in rules):
        names += ["prompt_key", "answer_key"]
    if any(isinstance(rule, Contamination) for rule in rules):
        names.append("contaminated")
    tables = [read_shard(location, ["sample_id", "held_out", *names]) for location in train_shards]
    whole = pa.concat_tables(tables)
    sizes = [len(table) for table in tables]
    shard = np.repeat(np.arange(len(sizes)), sizes)
    row = np.concatenate([np.arange(size) for size in sizes]).astype(np.int64)
    held_out = whole.column("held_out").to_numpy(zero_copy_only=False).astype(bool)
    keys = {name: whole.column(name).to_numpy(zero_copy_only=False) for name in names}
    prompts = [keys["prompt_key"][held_out]] if "prompt_key" in keys else []
    if any(isinstance(rule, Leakage) for rule in rules):
        prompts += [read_shard(location, ["prompt_key"]).column("prompt_key").to_numpy() for location in eval_shards]
    mine = ~held_out
    return _Samples(
        shards=train_shards,
        shard=shard[mine],
        row=row[mine],
        id=whole.column("sample_id").to_numpy()[mine],
        keys={name: values[mine] for name, values in keys.items()},
        alive=np.ones(int(mine.sum()), np.bool_),
        held_out_prompts=np.concatenate(prompts) if prompts else np.zeros(0, np.int64),
    )


def _hits(rule: Rule, samples: _Samples, out: str) -> tuple[Lines, Lines]:
    """(lines that the rule hits, for each the line it is like or -1), in the order of the records."""
    left = np.flatnonzero(samples.alive)
    match rule:
        case ExactDuplicates():
            return _repeats(left, samples.keys["exact"][left])
        case NearDuplicates():
            return _near(rule, samples, out)
        case Leakage():
            hit = left[np.isin(samples.keys["prompt_key"][left], samples.held_out_prompts)]
            return hit, np.full(len(hit), -1)
        case Contamination():
            hit = left[samples.keys["contaminated"][left].astype(bool)]
            return hit, np.full(len(hit), -1)
        case Conflicts():
            return _contradictions(rule, left, samples)
    raise AssertionError(f"{rule.rule} is no whole-data rule")


def _repeats(lines: Lines, keys: Lines) -> tuple[Lines, Lines]:
    """(every line but the first of its key, that first one)."""
    _, first, back = np.unique(keys, return_index=True, return_inverse=True)
    leader = lines[first[back]]
    repeated = leader != lines
    return lines[repeated], leader[repeated]


def _contradictions(rule: Conflicts, left: Lines, samples: _Samples) -> tuple[Lines, Lines]:
    """Lines whose prompt has several answers; keep_first spares those with the first answer."""
    prompts, answers = samples.keys["prompt_key"][left], samples.keys["answer_key"][left]
    _, first, back = np.unique(prompts, return_index=True, return_inverse=True)
    differs = answers != answers[first[back]]
    torn = np.bincount(back[differs], minlength=len(first)) > 0
    hit = differs if rule.keep_first else torn[back]
    like = np.where(differs, left[first[back]], -1)
    return left[hit], like[hit]


def _near(rule: NearDuplicates, samples: _Samples, out: str) -> tuple[Lines, Lines]:
    """Near duplicates among the living; all their clusters are written to clusters.parquet."""
    bounds = np.searchsorted(samples.shard, np.arange(len(samples.shards) + 1))
    alive = []
    for number, location in enumerate(samples.shards):
        mine = slice(bounds[number], bounds[number + 1])
        mask = np.zeros(len(read_shard(location, ["sample_id"])), np.bool_)
        mask[samples.row[mine][samples.alive[mine]]] = True
        alive.append(mask)
    found = near_duplicates(samples.shards, alive, rule, out)

    def line_of(places: NDArray[np.int64]) -> Lines:
        lines = np.empty(len(places), np.int64)
        for number in np.unique(places[:, 0]).tolist():
            own, start = places[:, 0] == number, bounds[number]
            lines[own] = start + np.searchsorted(samples.row[start : bounds[number + 1]], places[own, 1])
        return lines

    hit, like = line_of(found[:, :2]), line_of(found[:, 2:])
    table = pa.table({"sample_id": samples.id[hit], "cluster": samples.id[like]})
    with write_stream(join(out, "clusters.parquet")) as stream:
        pq.write_table(table, stream)
    return hit, like


def _shown(rule: str, samples: _Samples, hit: Lines, like: Lines) -> list[dict[str, Any]]:
    """The largest clusters: the first sample of each and some that repeat it."""
    leaders, sizes = np.unique(like, return_counts=True)
    largest = np.argsort(-sizes, kind="stable")[:_CLUSTERS_SHOWN]
    return [
        {
            "rule": rule,
            "size": int(sizes[place]) + 1,
            "members": samples.id[[leaders[place], *hit[like == leaders[place]][: _MEMBERS_SHOWN - 1]]].tolist(),
        }
        for place in largest
    ]
