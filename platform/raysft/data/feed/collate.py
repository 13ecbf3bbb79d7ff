"""Rows of a step -> the micro-batches of this replica. Numpy only.

replica_balance.py says which rows of the step meet in which micro-batch of which replica. Where rows run out, an
empty micro-batch with weight zero takes the place, so that every replica runs the same number of forward and backward
passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysft.data.feed.replica_balance import Sync, assign, numbers
from raysft.data.feed.rows import Rows, StepRows
from raysft.data.store.packed_rows import Row
from raysft.recipe.columns import Field

IGNORE = -100

Units = Callable[[Sequence[Row]], dict[str, float]]
"""{term of the loss: units of these rows}."""


@dataclass(frozen=True)
class MicroBatch:
    """What one replica holds in one forward pass. B rows padded to T tokens, S samples."""

    input_ids: np.ndarray  # [B, T] int64
    position_ids: np.ndarray  # [B, T] int64, restarts at 0 where a segment starts
    labels: np.ndarray  # [B, T] int64, the token to predict AT this position; -100: none
    weights: np.ndarray  # [B, T] float32, weight of that prediction
    segment_of: np.ndarray  # [B, T] int32, number of the segment in this micro-batch; -1: padding
    atom_of: np.ndarray  # [S] int32, number of the segment's atom in this micro-batch
    fields: Mapping[str, np.ndarray]
    """Columns by name: [B, T], [S] or [A] of tokens, segments or atoms; [.., width] where that is over 1."""
    sample_ids: np.ndarray  # [S] int64
    num_tokens: int
    """Real tokens, no padding."""
    index: int
    """Number of this micro-batch within the global step, whoever runs it: seeds its dropout."""


@dataclass(frozen=True)
class StepBatch:
    """This replica's share of a global step."""

    micro_batches: tuple[MicroBatch, ...]
    units: dict[str, float]
    """{term: units of this replica's rows}. To be summed over the replicas before it divides."""
    cursor: Mapping[str, int]
    """Where the data goes on after this step; empty where that follows from the step's number."""
    flops: float
    """Predicted work of the whole global step, over all replicas."""


@dataclass(frozen=True)
class Share:
    """Which part of every step is ours."""

    replica: int
    num_replicas: int
    micro_batch_rows: int
    packing: bool
    sync: Sync
    """When replicas wait for each other."""
    token_flops: float
    square_flops: float
    """Predicted cost of a row: token_flops x tokens + square_flops x sum of squared segment lengths."""


class Feed:
    """Micro-batches for one replica."""

    def __init__(self, rows: Rows, units: Units, share: Share, fields: Sequence[Field] = ()) -> None:
        """fields: what micro-batches carry besides input ids and targets; every row has them."""
        self._rows, self._units, self._share, self._fields = rows, units, share, tuple(fields)

    def step(self, step: int) -> StepBatch:
        """This replica's share of 0-based global step `step`."""
        return self.batch(self._rows.step(step))

    def batch(self, rows: StepRows) -> StepBatch:
        """This replica's share of some rows."""
        share = self._share
        costs = share.token_flops * rows.tokens + share.square_flops * rows.squares
        assigned = assign(costs, share.num_replicas, share.micro_batch_rows, share.sync)
        indices = numbers(assigned)[share.replica].tolist()
        mine = [rows.read(micro[micro >= 0].tolist()) for micro in assigned[share.replica]]
        return StepBatch(
            micro_batches=tuple(
                collate(chunk, index, packing=share.packing, fields=self._fields)
                for chunk, index in zip(mine, indices, strict=True)
            ),
            units=self._units([row for chunk in mine for row in chunk]),
            cursor=rows.cursor,
            flops=float(costs.sum()),
        )


def collate(rows: Sequence[Row], index: int, *, packing: bool, fields: Sequence[Field] = ()) -> MicroBatch:
    """Rows -> padded arrays. packing=False: each segment becomes a padded row of its own."""
    if not rows:
        return _empty(index, fields)
    pieces = [list(_segments(row)) for row in rows]
    lines = pieces if packing else [[segment] for line in pieces for segment in line]
    width = max(sum(len(ids) for ids, _ in line) for line in lines)
    shape = (len(lines), width)
    input_ids, position_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels, weights = np.full(shape, IGNORE, np.int64), np.zeros(shape, np.float32)
    for b, line in enumerate(lines):
        start = 0
        for ids, target in line:
            end = start + len(ids)
            input_ids[b, start:end] = ids
            position_ids[b, start:end] = np.arange(len(ids))
            labels[b, start : end - 1] = np.where(target[1:] != 0, ids[1:], IGNORE)
            weights[b, start : end - 1] = target[1:]
            start = end
        position_ids[b, start:] = np.arange(width - start)  # padding is a segment of its own
    segment_of = _segment_of(lines, shape)
    return MicroBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        labels=labels,
        weights=weights,
        segment_of=segment_of,
        atom_of=_atom_of(rows),
        fields={field.name: _field(rows, field, segment_of) for field in fields},
        sample_ids=np.concatenate([row.segment_fields["sample_id"] for row in rows]).astype(np.int64),
        num_tokens=sum(row.num_tokens for row in rows),
        index=index,
    )


def largest_micro_batch(rows: int, tokens: int, fields: Sequence[Field] = (), segments: int = 1) -> MicroBatch:
    """Full rows, every token a target: nothing that a packed store holds needs more memory.

    segments: of each row. One, unless each costs something of its own (virtual tokens before it).
    """
    number = np.arange(tokens) * segments // tokens  # of a token's segment in its row
    starts = np.searchsorted(number, number)
    segment_of = (np.arange(rows)[:, None] * segments + number).astype(np.int32)
    position_ids = np.tile(np.arange(tokens, dtype=np.int64) - starts, (rows, 1))
    labels = np.where(np.append(number[1:] == number[:-1], False), 0, IGNORE) + np.zeros_like(position_ids)
    return MicroBatch(
        input_ids=np.zeros_like(position_ids),
        position_ids=position_ids,
        labels=labels,
        weights=(labels != IGNORE).astype(np.float32),
        segment_of=segment_of,
        atom_of=np.arange(rows * segments, dtype=np.int32),
        fields={field.name: _padding(field, segment_of, rows * segments) for field in fields},
        sample_ids=np.zeros(0, np.int64),
        num_tokens=rows * tokens,
        index=0,
    )


def _segments(row: Row) -> list[tuple[np.ndarray, np.ndarray]]:
    """(input_ids, target weights) of every segment of a row."""
    borders = np.cumsum(row.segment_fields["length"])[:-1]
    ids = np.split(row.token_fields["input_ids"], borders)
    return list(zip(ids, np.split(row.token_fields["target"], borders), strict=True))


def _segment_of(lines: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]], shape: tuple[int, int]) -> np.ndarray:
    """[B, T] int32: numbers of the segments, row by row; -1 where there is padding."""
    found, number = np.full(shape, -1, np.int32), 0
    for b, line in enumerate(lines):
        start = 0
        for ids, _ in line:
            found[b, start : start + len(ids)] = number
            start, number = start + len(ids), number + 1
    return found


def _atom_of(rows: Sequence[Row]) -> np.ndarray:
    """[S] int32: numbers of the segments' atoms over all rows."""
    atoms = [row.segment_fields["atom"] for row in rows]
    before = np.cumsum([0, *(int(own.max()) + 1 for own in atoms)])
    return np.concatenate([own + first for own, first in zip(atoms, before, strict=False)]).astype(np.int32)


def _field(rows: Sequence[Row], field: Field, segment_of: np.ndarray) -> np.ndarray:
    """A column of these rows. A token's value that predicts it stands one place to the left, with its label."""
    groups = [{"token": r.token_fields, "segment": r.segment_fields, "atom": r.atom_fields}[field.per] for r in rows]
    values = np.concatenate([group[field.name] for group in groups])
    if field.per != "token":
        return values
    found = _padding(field, segment_of, 0)
    found[segment_of >= 0] = values  # tokens lie in the order of their segments, whatever rows these stand in
    if field.predicts:
        is_last = np.ones(segment_of.shape, np.bool_)
        is_last[:, :-1] = segment_of[:, 1:] != segment_of[:, :-1]
        found[:, :-1] = found[:, 1:]
        found[is_last | (segment_of < 0)] = field.padding
    return found


def _padding(field: Field, segment_of: np.ndarray, count: int) -> np.ndarray:
    """A column without values, of so many segments or atoms."""
    shape = segment_of.shape if field.per == "token" else (count,)
    return np.full((*shape, field.width) if field.width > 1 else shape, field.padding, dtype=field.dtype)


def _empty(index: int, fields: Sequence[Field]) -> MicroBatch:
    """Two tokens, one prediction of weight zero: runs forward and backward, adds nothing."""
    segment_of = np.full((1, 2), -1, np.int32)
    return MicroBatch(
        input_ids=np.zeros((1, 2), np.int64),
        position_ids=np.arange(2, dtype=np.int64)[None],
        labels=np.array([[0, IGNORE]], np.int64),
        weights=np.zeros((1, 2), np.float32),
        segment_of=segment_of,
        atom_of=np.zeros(0, np.int32),
        fields={field.name: _padding(field, segment_of, 0) for field in fields},
        sample_ids=np.zeros(0, np.int64),
        num_tokens=0,
        index=index,
    )
