"""What one rank holds of the training state, and how it gets it back: flat ranges of tensors, or of their shards.

A tensor lies on the ranks in two steps. Tensor parallelism cuts it along one axis into shards (Cut). ZeRO, which
knows no axes, keeps a range of the flat tensor or shard on each rank (Slice). Where several ranks hold the same, each
gives its part of it. So the slices of all ranks are every element of every tensor once, whatever the layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's, by the names that torch has for them."""


@dataclass(frozen=True)
class Cut:
    """A shard: elements first .. last - 1 of an axis, all of the other axes."""

    axis: int
    first: int
    last: int


@dataclass(frozen=True)
class Slice:
    """Elements start, start + 1, ... of a tensor in row-major order, or of its shard."""

    key: str
    """`<kind>:<HF parameter name>`, or `adam_step`."""
    shape: tuple[int, ...]
    """The whole tensor's."""
    values: Tensor
    """[n] fp32, on any device. It may be what the next update changes: whoever keeps it copies it."""
    start: int = 0
    cut: Cut | None = None
    """The shard that it is a range of; None: of the whole tensor."""


def whole(key: str, tensor: Tensor) -> Slice:
    """All of a tensor."""
    return Slice(key, tuple(tensor.shape), tensor.reshape(-1))


class Saved(Protocol):
    """The state at a commit, slice by slice (train/commits/saved.py)."""

    def __contains__(self, key: object) -> bool: ...

    def read(self, key: str, into: Tensor, start: int = 0, cut: Cut | None = None) -> None:
        """Fill `into`, of any dtype and device, with the elements from `start` on of a tensor, or of its shard.

        Raises CheckpointError when the commit does not have all of them, StorageError when they cannot be read.
        """

    def whole(self, key: str) -> Tensor:
        """A whole tensor, fp32 on CPU. Raises as read()."""


class HeldState(Protocol):
    """What an optimizer has on this rank (engine/adam.py)."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """What a trained parameter has: the fp32 `weight` that the optimizer steps on, and its moments, if any."""

    def held(self, name: str, kind: str) -> tuple[int, Tensor] | None:
        """(first element of the flat parameter that is here, their values [n]); None: nothing of it is here."""


@dataclass(frozen=True)
class Copies:
    """How many ranks hold the same, and which of them this one is, from 0."""

    number: int
    count: int

    def times(self, number: int, count: int) -> Copies:
        """Each of them has copies in turn."""
        return Copies(self.number * count + number, self.count * count)


def slices(
    state: HeldState, shapes: Mapping[str, tuple[int, ...]], cuts: Mapping[str, Cut], copies: Mapping[str, Copies]
) -> Iterator[Slice]:
    """This rank's part of what it holds, all weights first. Allocates nothing.

    shapes: {HF name of a trained parameter: whole shape}. cuts: of those that are sharded. copies: of each.
    Parameters with as many copies are taken as one long row, of which each holder gives an equal range.
    """
    taken = _shares(state, shapes, copies)
    for kind in state.kinds:
        for name, (first, last) in taken.items():
            found = state.held(name, kind)
            assert found, "the moments are where the weight is"
            start, values = found
            yield Slice(f"{kind}:{name}", shapes[name], values.detach()[first:last], start + first, cuts.get(name))


def _shares(
    state: HeldState, names: Mapping[str, object], copies: Mapping[str, Copies]
) -> dict[str, tuple[int, int]]:
    """{name: range of the values held here that this rank gives}, without empty ones."""
    held = {name: found[1].numel() for name in names if (found := state.held(name, state.kinds[0]))}
    taken = {}
    for copy in set(copies.values()):
        row = {name: size for name, size in held.items() if copies[name] == copy}
        total, before = sum(row.values()), 0
        begin, end = (total * number // copy.count for number in (copy.number, copy.number + 1))
        for name, size in row.items():
            first, last = max(begin - before, 0), min(end - before, size)
            if first < last:
                taken[name] = (first, last)
            before += size
    return {name: taken[name] for name in held if name in taken}
