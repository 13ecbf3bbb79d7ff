"""A micro-batch on the device, as objectives read it.

Shapes: B rows, T tokens a row, S segments (samples), A atoms (groups of samples).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from raysft.model.fast.loss import IGNORE
from raysft.model.fast.ulysses import SequenceGroup
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

    def flat(self, columns: Sequence[Field]) -> tuple[Tensor, ...]:
        """All of its tensors; of the fields, these columns, in their order."""
        return (*self[:7], *(self.fields[column.name] for column in columns))

    @classmethod
    def of_flat(cls, tensors: Sequence[Tensor], columns: Sequence[Field]) -> DeviceBatch:
        """A batch from its tensors."""
        ids, positions, labels, weights, segment_of, predicts, atom_of, *values = tensors
        fields = {column.name: value for column, value in zip(columns, values, strict=True)}
        return cls(ids, positions, labels, weights, segment_of, predicts, atom_of, fields)

    @property
    def num_atoms(self) -> int:
        """A."""
        return int(self.atom_of.max()) + 1 if len(self.atom_of) else 0

    @property
    def is_first_of_atom(self) -> Tensor:
        """[S] bool: is the segment the first of its atom?"""
        before = torch.cat([self.atom_of.new_full((1,), -1), self.atom_of[:-1]])
        return self.atom_of != before

    def own(self, sequence: SequenceGroup, columns: Sequence[Field]) -> DeviceBatch:
        """What belongs to this rank's tokens of every row, [B, T / P]; input_ids and position_ids stay whole."""
        mine = {field.name: field.padding for field in columns if field.per == "token"}
        return self._replace(
            labels=sequence.own(self.labels, IGNORE),
            weights=sequence.own(self.weights, 0.0),
            segment_of=sequence.own(self.segment_of, -1),
            predicts=sequence.own(self.predicts, 0),
            fields={n: sequence.own(v, mine[n]) if n in mine else v for n, v in self.fields.items()},
        )


def on_device(
    batch: HostBatch,
    device: torch.device,
    numbers: Mapping[str, float] | None = None,
    step_columns: Mapping[str, Tensor] | None = None,
) -> DeviceBatch:
    """The arrays as tensors. numbers: of the global step, which become columns of atoms. step_columns: what
    is found of it for this micro-batch."""
    segment_of = torch.tensor(batch.segment_of, dtype=torch.int64, device=device)
    predicts = torch.zeros_like(segment_of, dtype=torch.bool)
    predicts[:, :-1] = (segment_of[:, 1:] == segment_of[:, :-1]) & (segment_of[:, :-1] >= 0)
    atom_of = torch.tensor(batch.atom_of, dtype=torch.int64, device=device)
    atoms = int(batch.atom_of.max()) + 1 if len(batch.atom_of) else 0
    of_step = {name: torch.full((atoms,), number, device=device) for name, number in (numbers or {}).items()}
    of_step |= {name: column.to(device) for name, column in (step_columns or {}).items()}
    return DeviceBatch(
        input_ids=torch.from_numpy(batch.input_ids).to(device),
        position_ids=torch.from_numpy(batch.position_ids).to(device),
        labels=torch.from_numpy(batch.labels).to(device),
        weights=torch.from_numpy(batch.weights).to(device),
        segment_of=segment_of,
        predicts=predicts,
        atom_of=atom_of,
        fields={name: torch.from_numpy(array).to(device) for name, array in batch.fields.items()} | of_step,
    )


class Extent(NamedTuple):
    """How much of several batches behind each other is one trial's."""

    positions: int
    segments: int
    atoms: int


def in_one_row(batches: Sequence[DeviceBatch], columns: Sequence[Field]) -> tuple[DeviceBatch, list[Extent]]:
    """Batches of several trials behind each other, [1, sum of B x T]: segments and atoms are numbered on."""
    extents = [Extent(batch.labels.numel(), len(batch.atom_of), batch.num_atoms) for batch in batches]
    segments = np.cumsum([0, *(extent.segments for extent in extents)]).tolist()
    atoms = np.cumsum([0, *(extent.atoms for extent in extents)]).tolist()
    numbered = [
        batch._replace(
            segment_of=torch.where(batch.segment_of < 0, -1, batch.segment_of + first_segment),
            atom_of=batch.atom_of + first_atom,
        )
        for batch, first_segment, first_atom in zip(batches, segments, atoms, strict=False)
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
    return DeviceBatch(**flat, atom_of=torch.cat([batch.atom_of for batch in numbered]), fields=fields), extents
