"""Whole-data rules: which samples go because of other samples. Decides by the keys in the shards.

The rules run in the recipe's order, each on what the ones before left; of samples that are the same, the first in
the order of the records stays. So the decision depends on the data alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raysft.data.rules.near_duplicates import Lines, near_duplicates
from raysft.data.store.shards import read_shard
from raysft.recipe.cleaning import (
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
_READERS = 8  # threads: shards may be remote

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
    """All samples of the shards, a line each, in the order of the records."""

    shards: Sequence[str]
    starts: Lines
    """Shard i holds the lines [starts[i], starts[i + 1])."""
    id: Lines
    """Number of the record that a sample was made of; samples of one record share it."""
    keys: dict[str, NDArray[Any]]
    alive: NDArray[np.bool_]
    """Training samples that no rule dropped yet."""
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
            clusters += _shown(rule.rule, samples, hit, like)
        if rule.action == "drop":
            samples.alive[hit] = False
            pieces.append(_dropped(rule, samples, hit, like))
    dropped = pa.concat_tables(pieces).sort_by([("shard", "ascending"), ("row", "ascending")])
    return Selection(dropped, counts, clusters)


def _read(train_shards: Sequence[str], eval_shards: Sequence[str], rules: Sequence[Rule]) -> _Samples:
    """The keys of all samples; those of held-out files only for `leakage`."""
    names = []
    if any(isinstance(rule, ExactDuplicates) for rule in rules):
        names.append("exact")
    if any(isinstance(rule, Leakage | Conflicts) for rule in rules):
        names += ["prompt_key", "answer_key"]
    if any(isinstance(rule, Contamination) for rule in rules):
        names.append("contaminated")
    others = eval_shards if any(isinstance(rule, Leakage) for rule in rules) else []
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda path: _columns(path, ["sample_id", "held_out", *names]), train_shards))
        prompts = [table["prompt_key"] for table in pool.map(lambda path: _columns(path, ["prompt_key"]), others)]
    keys = {name: np.concatenate([table.pop(name) for table in tables]) for name in names}
    held_out = np.concatenate([table["held_out"] for table in tables])
    if "prompt_key" in keys:
        prompts.append(keys["prompt_key"][held_out])
    return _Samples(
        shards=train_shards,
        starts=np.cumsum([0, *(len(table["held_out"]) for table in tables)]),
        id=np.concatenate([table["sample_id"] for table in tables]),
        keys=keys,
        alive=~held_out,
        held_out_prompts=np.concatenate([np.zeros(0, np.int64), *prompts]),
    )


def _columns(location: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Columns of a shard as copies: a view would keep the whole file mapped."""
    table = read_shard(location, names)
    return {name: np.array(table.column(name).to_numpy(), copy=True) for name in names}


def _hits(rule: Rule, samples: _Samples, out: str) -> tuple[Lines, Lines]:
    """(lines that the rule hits, for each the line it is like or -1), in the order of the records."""
    left = np.flatnonzero(samples.alive)
    match rule:
        case ExactDuplicates():
            return _of_others(samples, *_repeats(left, samples.keys["exact"][left]))
        case NearDuplicates():
            found = near_duplicates(samples.shards, samples.starts, samples.alive, rule, out)
            hit, like = _of_others(samples, *found)
            _keep_clusters(join(out, "clusters.parquet"), samples.id[hit], samples.id[like])
            return hit, like
        case Leakage():
            hit = left[np.isin(samples.keys["prompt_key"][left], samples.held_out_prompts)]
            return hit, np.full(len(hit), -1)
        case Contamination():
            hit = left[samples.keys["contaminated"][left].astype(bool)]
            return hit, np.full(len(hit), -1)
        case Conflicts():
            return _contradictions(rule, left, samples)
    raise AssertionError(f"{rule.rule} is no whole-data rule")


def _of_others(samples: _Samples, hit: Lines, like: Lines) -> tuple[Lines, Lines]:
    """Without the samples that are like one of their own record: its augmented copies, the parts of a split one."""
    others = samples.id[hit] != samples.id[like]
    return hit[others], like[others]


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


def _dropped(rule: Rule, samples: _Samples, hit: Lines, like: Lines) -> pa.Table:
    shard = np.searchsorted(samples.starts, hit, side="right") - 1
    columns = {
        "shard": pa.array(shard, pa.int32()),
        "row": pa.array(hit - samples.starts[shard], pa.int32()),
        "reason": pa.repeat(rule.rule, len(hit)),
        "like": pa.array(np.where(like < 0, -1, samples.id[like])),
    }
    return pa.table(columns, schema=DROPPED)


def _keep_clusters(location: str, ids: Lines, clusters: Lines) -> None:
    """Every near duplicate with the record it is like, for whoever wants to look at all of them."""
    with write_stream(location) as stream:
        pq.write_table(pa.table({"sample_id": ids, "cluster": clusters}), stream)


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
