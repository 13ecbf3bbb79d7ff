"""Whole training states: from every rank's slices, into slices, in memory, in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from raysft.engine.hold import Hold
from raysft.engine.slices import Cut, Slice
from raysft.train.commits.layout import Checkpoint


def assembled(slices: Iterable[Slice]) -> dict[str, Tensor]:
    """{key: whole tensor}. Asserts that every element is there once."""
    found: dict[str, Tensor] = {}
    times: dict[str, Tensor] = {}
    for piece in slices:
        tensor = found.setdefault(piece.key, torch.full(piece.shape, torch.nan))
        counts = times.setdefault(piece.key, torch.zeros(piece.shape, dtype=torch.int64))
        index = torch.arange(tensor.numel()).view(piece.shape)
        if piece.cut:
            index = index.transpose(0, piece.cut.axis)[piece.cut.first : piece.cut.last].transpose(0, piece.cut.axis)
        mine = index.flatten()[piece.start : piece.start + piece.values.numel()]
        assert len(mine) == piece.values.numel(), f"{piece.key} reaches past its end"
        tensor.view(-1)[mine] = piece.values.detach().float().cpu()
        counts.view(-1)[mine] += 1
    for key, counts in times.items():
        assert (counts == 1).all(), f"{key}: elements given {counts.min()} to {counts.max()} times"
    return found


def shared_out(state: Mapping[str, Tensor], rank: int, size: int) -> Iterator[Slice]:
    """What one of so many ranks gives of a state: its part of each tensor."""
    for key, tensor in state.items():
        first, last = (tensor.numel() * part // size for part in (rank, rank + 1))
        if first < last:
            yield Slice(key, tuple(tensor.shape), tensor.flatten()[first:last], first)


@dataclass
class Still:
    """An engine's state, which nobody changes."""

    state: Callable[[], Iterator[Slice]]
    hold: Hold = field(default_factory=Hold)


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """{key: whole tensor}."""
    with closing(checkpoint.saved()) as saved:
        return {key: saved.whole(key) for key in saved}


def gathered(slices: Iterable[Slice], names: Iterable[str]) -> dict[str, Tensor]:
    """{key: whole tensor} of all ranks' slices, in the order of the names and, for each, of its kinds. Collective."""
    own = [Slice(s.key, s.shape, s.values.detach().cpu(), s.start, s.cut) for s in slices]
    everyone: list[list[Slice] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    found = assembled(piece for part in everyone for piece in part or [])
    moments = ("exp_avg", "exp_avg_sq") if any(key.startswith("exp_avg:") for key in found) else ()  # Adafactor's
    order = ["adam_step", *(f"{kind}:{name}" for name in names for kind in ("weight", *moments))]
    return {key: found.pop(key) for key in order} | found


class InMemory(dict[str, Tensor]):
    """A state as engine/slices.py: Saved, of whole tensors."""

    def read(self, key: str, into: Tensor, start: int = 0, cut: Cut | None = None) -> None:
        tensor = self[key]
        if cut:
            tensor = tensor.narrow(cut.axis, cut.first, cut.last - cut.first)
        into.copy_(tensor.flatten()[start : start + into.numel()].view(into.shape))

    def whole(self, key: str) -> Tensor:
        return self[key].clone()
