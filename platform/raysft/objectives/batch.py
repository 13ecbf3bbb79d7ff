"""A micro-batch on the device, as objectives read it.

Shapes: B rows, T tokens a row, S segments (samples), A atoms (groups of samples).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from raysft.model.fast.loss import IGNORE
from raysft.model.fast.ulysses import SequenceGroup
from raysft.objectives.known import ALONE, Known, Numbers, Part, before, known_in_one_row, known_of
from raysft.objectives.packed import pack, unpack
from raysft.recipe.columns import Field


class HostBatch(Protocol):
    """Arrays of one forward pass, made by data/feed/collate.py."""

    @property
    def input_ids(self) -> np.ndarray: ...
    @property
    def position_ids(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def weights(self) -> np.ndarray: ...
    @property
    def segment_of(self) -> np.ndarray: ...
    @property
    def atom_of(self) -> np.ndarray: ...
    @property
    def fields(self) -> Mapping[str, np.ndarray]: ...
    @property
    def sample_ids(self) -> np.ndarray: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def index(self) -> int: ...


class DeviceBatch(NamedTuple):
    """Tensors of one forward pass."""

    input_ids: Tensor
    """[B, T] int64."""
    position_ids: Tensor
    """[B, T] int64, restarts at 0 where a segment starts."""
    labels: Tensor
    """[B, T] int64, the trained token to predict AT a position; IGNORE: none."""
    weights: Tensor
    """[B, T] float32, of that prediction."""
    segment_of: Tensor
    """[B, T] int64, number of the segment; -1: padding."""
    predicts: Tensor
    """[B, T] bool: the next token is of the same segment, trained or not."""
    atom_of: Tensor
    """[S] int64, number of the segment's atom."""
    fields: dict[str, Tensor]
    """Columns by name: [B, T], [S] or [A]; [.., width] where that is over 1."""

    known: Known

    def flat(self, columns: Sequence[Field]) -> tuple[Tensor | Numbers, ...]:
        """All of its tensors; of the fields, these columns, in their order. Last the numbers that are known of it."""
        fields = (self.fields[column.name] for column in columns)
        return (*self[:7], *fields, *self.known.tensors, self.known.numbers)

    @classmethod
    def of_flat(cls, parts: Sequence[Any], columns: Sequence[Field]) -> DeviceBatch:
        """A batch from what flat() gave."""
        ids, positions, labels, weights, segment_of, predicts, atom_of, *others = parts
        fields = {column.name: value for column, value in zip(columns, others, strict=False)}
        known = Known.of(others[len(columns) : -1], others[-1])
        return cls(ids, positions, labels, weights, segment_of, predicts, atom_of, fields, known)

    @property
    def num_atoms(self) -> int:
        """A."""
        return self.known.num_atoms

    @property
    def is_first_of_atom(self) -> Tensor:
        """[S] bool: is the segment the first of its atom?"""
        before = torch.cat([self.atom_of.new_full((1,), -1), self.atom_of[:-1]])
        return self.atom_of != before

    def own(self, sequence: SequenceGroup, columns: Sequence[Field]) -> DeviceBatch:
        """What belongs to this rank's tokens of every row, [B, T / P]; input_ids and position_ids stay whole. What is
        known is of that part already."""
        mine = {field.name: field.padding for field in columns if field.per == "token"}
        return self._replace(
            labels=sequence.own(self.labels, IGNORE),
            weights=sequence.own(self.weights, 0.0),
            segment_of=sequence.own(self.segment_of, -1),
            predicts=sequence.own(self.predicts, 0),
            fields={n: sequence.own(v, mine[n]) if n in mine else v for n, v in self.fields.items()},
        )


def on_host(batch: HostBatch, part: Part = ALONE) -> DeviceBatch:
    """The arrays as tensors of the host, most of them in the same memory, and what is known of them."""
    segment_of = torch.from_numpy(batch.segment_of).to(torch.int64)
    predicts = torch.zeros_like(segment_of, dtype=torch.bool)
    predicts[:, :-1] = (segment_of[:, 1:] == segment_of[:, :-1]) & (segment_of[:, :-1] >= 0)
    tensors = (
        torch.from_numpy(batch.input_ids),
        torch.from_numpy(batch.position_ids),
        torch.from_numpy(batch.labels),
        torch.from_numpy(batch.weights),
        segment_of,
        predicts,
        torch.from_numpy(batch.atom_of).to(torch.int64),
    )
    fields = {name: torch.from_numpy(array) for name, array in batch.fields.items()}
    return DeviceBatch(*tensors, fields, known=known_of(tensors, part))


def on_device(
    batch: HostBatch,
    device: torch.device,
    numbers: Mapping[str, float] | None = None,
    step_columns: Mapping[str, Tensor] | None = None,
    part: Part = ALONE,
) -> DeviceBatch:
    """The batch where passes read it, at once; ahead.py is for many. numbers, step_columns: see with_step."""
    return with_step(moved(on_host(batch, part), device), numbers or {}, step_columns or {})


def with_step(batch: DeviceBatch, numbers: Mapping[str, float], step_columns: Mapping[str, Tensor]) -> DeviceBatch:
    """The batch with what is of its global step: numbers, which become columns of atoms, and columns that are found
    of the step for this micro-batch."""
    device, atoms = batch.labels.device, batch.num_atoms
    of_step = {name: torch.full((atoms,), number, device=device) for name, number in numbers.items()}
    return batch._replace(fields=batch.fields | of_step | dict(step_columns))


def moved(batch: DeviceBatch, device: torch.device, pinned: bool = False) -> DeviceBatch:
    """A batch of the host on a device, in one copy; on a CPU the batch itself. pinned: the copy is only queued, in
    the current stream."""
    if device.type == "cpu":
        return batch
    names, tensors = list(batch.fields), (*batch[:7], *batch.fields.values(), *batch.known.tensors)
    packed = pack(tensors, pinned=pinned)
    ids, positions, labels, weights, segment_of, predicts, atom_of, *others = unpack(
        packed.to(device, non_blocking=pinned), tensors
    )
    fields, known = dict(zip(names, others, strict=False)), Known.of(others[len(names) :], batch.known.numbers)
    return DeviceBatch(ids, positions, labels, weights, segment_of, predicts, atom_of, fields, known)


class Extent(NamedTuple):
    """How much of several batches behind each other is one trial's."""

    positions: int
    segments: int
    atoms: int


def in_one_row(batches: Sequence[DeviceBatch], columns: Sequence[Field]) -> tuple[DeviceBatch, list[Extent]]:
    """Batches of several trials behind each other, [1, sum of B x T]: segments and atoms are numbered on."""
    extents = [Extent(batch.labels.numel(), len(batch.atom_of), batch.num_atoms) for batch in batches]
    positions, segments, atoms = (before(column) for column in zip(*extents, strict=True))
    numbered = [
        batch._replace(
            segment_of=torch.where(batch.segment_of < 0, -1, batch.segment_of + first_segment),
            atom_of=batch.atom_of + first_atom,
        )
        for batch, first_segment, first_atom in zip(batches, segments, atoms, strict=True)
    ]
    flat = {
        name: torch.cat([getattr(batch, name).flatten(0, 1) for batch in numbered]).unsqueeze(0)
        for name in ("input_ids", "position_ids", "labels", "weights", "segment_of", "predicts")
    }
    per_token = {field.name for field in columns if field.per == "token"}
    fields = {}
    for name in batches[0].fields:
        parts = [batch.fields[name] for batch in numbered]
        is_tokens = name in per_token
        fields[name] = torch.cat([part.flatten(0, 1) if is_tokens else part for part in parts])
        fields[name] = fields[name].unsqueeze(0) if is_tokens else fields[name]
    known = known_in_one_row([batch.known for batch in batches], positions, sum(extent.atoms for extent in extents))
    atom_of = torch.cat([batch.atom_of for batch in numbered])
    return DeviceBatch(**flat, atom_of=atom_of, fields=fields, known=known), extents
