"""A loss of all samples of a global step together: their vectors from every micro-batch and rank, and back what each
needs for its own pass.

Vectors are made without gradients, with the dropout of the pass that follows; what is computed from them is the same
on every rank, for all have the same ones in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from raysft.objectives.batch import HostBatch
from raysft.objectives.objective import Objective, StepSamples, WholeStep

CPU = torch.device("cpu")
Columns = Mapping[str, Tensor]
"""Columns of a micro-batch by name."""


def step_columns(
    objective: Objective,
    micro_batches: Sequence[HostBatch],
    vectors_of: Callable[[HostBatch, Columns], Tensor],
    replica: int,
    *,
    counts: bool,
    evaluates: bool = False,
    device: torch.device = CPU,
) -> list[Columns]:
    """What each micro-batch gets of the whole step; nothing where the loss is a sum. Collective, where it is not.

    vectors_of: [S, D] of a micro-batch, without gradients; its columns are then zeros. replica: whose micro-batches
    these are; counts: of the ranks that have the same ones, this one tells them. evaluates: are columns wanted
    that only evaluations need? device: where passes run.
    """
    whole = objective.whole_step
    if whole is None:
        return [{} for _ in micro_batches]
    with torch.no_grad():
        vectors = torch.cat([vectors_of(batch, _zeros(whole, batch, device)) for batch in micro_batches]).float()
        samples, start = _gathered(vectors, micro_batches, replica, counts=counts)
        found = whole.solve(samples)
        if evaluates and whole.measure is not None:
            found |= whole.measure(samples)
    return _split(whole, found, micro_batches, start, int(samples.is_first[:start].sum()))


def _zeros(whole: WholeStep, batch: HostBatch, device: torch.device) -> Columns:
    sizes = {"segment": (len(batch.atom_of), 1), "atom": (num_atoms(batch),)}
    return {field.name: torch.zeros(sizes[field.per], device=device) for field in whole.columns}


def _per(whole: WholeStep, name: str) -> str:
    return next(field.per for field in whole.columns if field.name == name)


def num_atoms(batch: HostBatch) -> int:
    """Groups of samples in a micro-batch."""
    return int(batch.atom_of.max()) + 1 if len(batch.atom_of) else 0


def _split(
    whole: WholeStep, found: Columns, micro_batches: Sequence[HostBatch], segment: int, atom: int
) -> list[Columns]:
    """What is found of the step, by micro-batch. segment, atom: numbers of the first ones of these micro-batches."""
    columns: list[Columns] = []
    device = next(iter(found.values())).device
    for batch in micro_batches:
        ends = {"segment": (segment, segment + len(batch.atom_of)), "atom": (atom, atom + num_atoms(batch))}
        own = {name: column[slice(*ends[_per(whole, name)])] for name, column in found.items()}
        columns.append({**_zeros(whole, batch, device), **own})
        segment, atom = ends["segment"][1], ends["atom"][1]
    return columns


def _gathered(
    vectors: Tensor, micro_batches: Sequence[HostBatch], replica: int, *, counts: bool
) -> tuple[StepSamples, int]:
    """(samples of all replicas, number of the first one of this replica). Collective."""
    known = np.concatenate([np.stack([text_keys(batch), _is_first(batch)], 1) for batch in micro_batches])
    facts = torch.from_numpy(known).to(vectors.device)  # [S, 2] int64
    told = [int(x) for x in (len(vectors), replica, counts)]
    ranks = _all(torch.tensor(told, device=vectors.device)[None], dist.get_world_size())
    sizes, owners, tells = (column.tolist() for column in torch.cat(ranks).T)
    chosen = [rank for rank, tell in enumerate(tells) if tell]
    parts = [_padded(part, max(sizes)) for part in (vectors, facts)]
    every = [[found[rank][: sizes[rank]] for rank in chosen] for found in (_all(part, len(sizes)) for part in parts)]
    all_facts = torch.cat(every[1])
    start = sum(sizes[rank] for rank in chosen[: [owners[rank] for rank in chosen].index(replica)])
    return StepSamples(torch.cat(every[0]), all_facts[:, 0], all_facts[:, 1] > 0), start


def _all(own: Tensor, world: int) -> list[Tensor]:
    found = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(found, own.contiguous())
    return found


def _padded(values: Tensor, size: int) -> Tensor:
    return torch.cat([values, values.new_zeros(size - len(values), *values.shape[1:])])


def text_keys(batch: HostBatch) -> np.ndarray:
    """A number for each text, equal for equal tokens: [S] int64."""
    is_token = batch.segment_of >= 0  # tokens lie in the order of their segments
    lengths = np.bincount(batch.segment_of[is_token], minlength=len(batch.atom_of))
    texts = np.split(batch.input_ids[is_token], np.cumsum(lengths)[:-1]) if len(lengths) else []
    digests = [blake2b(text.tobytes(), digest_size=8).digest() for text in texts]
    keys: np.ndarray = np.frombuffer(b"".join(digests), np.int64)
    return keys


def _is_first(batch: HostBatch) -> np.ndarray:
    """Is a segment the first of its atom? [S] int64."""
    first: np.ndarray = (np.diff(batch.atom_of, prepend=-1) != 0).astype(np.int64)
    return first
