"""Every rank's slices together are every element once, whatever the layout."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from whole_state import assembled

from raysft.engine.slices import MOMENTS, Copies, Cut, Slice, slices, whole

KINDS = ("weight", *MOMENTS)


class Flat:
    """A rank of `ranks` that keep an equal range of all values in one row, as ZeRO 1 and 2 do; of 1: all of them."""

    def __init__(self, state: Mapping[str, Tensor], names: list[str], rank: int, ranks: int) -> None:
        total, before = sum(state[f"weight:{name}"].numel() for name in names), 0
        begin, end = (-(-total // ranks) * number for number in (rank, rank + 1))
        self.here: dict[tuple[str, str], tuple[int, Tensor]] = {}
        for name in names:
            size = state[f"weight:{name}"].numel()
            first, last = max(begin - before, 0), min(end - before, size)
            if first < last:
                for kind in KINDS:
                    self.here[name, kind] = (first, state[f"{kind}:{name}"].flatten()[first:last])
            before += size

    kinds = KINDS

    def held(self, name: str, kind: str) -> tuple[int, Tensor] | None:
        return self.here.get((name, kind))


SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(SHAPES, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.data())
def test_each_element_is_given_once(
    sizes: list[list[int]], replicas: int, zero: int, tensor: int, data: st.DataObject
) -> None:
    """tensor ranks cut some tensors along an axis; `zero` of them keep ranges; `replicas` have the same."""
    state, axes = {}, dict[str, int]()
    for i, size in enumerate(sizes):
        axis = data.draw(st.integers(-1, len(size) - 1))
        shape = [n * tensor if a == axis else n for a, n in enumerate(size)]
        for kind in KINDS:
            state[f"{kind}:p{i}"] = torch.randn(shape)
        if axis >= 0 and tensor > 1:
            axes[f"p{i}"] = axis
    names = [f"p{i}" for i in range(len(sizes))]
    shapes = {name: tuple(state[f"weight:{name}"].shape) for name in names}
    given_: list[list[Slice]] = []
    for t in range(tensor):
        cuts, own = {}, dict(state)
        for name, axis in axes.items():
            length = shapes[name][axis] // tensor
            cuts[name] = Cut(axis, t * length, (t + 1) * length)
            for kind in KINDS:
                own[f"{kind}:{name}"] = state[f"{kind}:{name}"].narrow(axis, t * length, length)
        for z in range(zero):
            for r in range(replicas):
                alike = Copies(r, replicas)
                copies = {name: alike if name in cuts else alike.times(t, tensor) for name in names}
                given_.append(list(slices(Flat(own, names, z, zero), shapes, cuts, copies)))
    found = assembled(piece for part in given_ for piece in part)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
    for part in given_:
        kinds = [piece.key.partition(":")[0] for piece in part]
        assert kinds == sorted(kinds, key=KINDS.index), "weights first"


def test_ranks_that_hold_the_same_give_equal_shares() -> None:
    state = {f"{kind}:{name}": torch.randn(n, 3) for kind in KINDS for name, n in (("a", 7), ("b", 100), ("c", 1))}
    shapes = {name: tuple(state[f"weight:{name}"].shape) for name in "abc"}
    sizes = []
    for rank in range(5):
        alone = Flat(state, list("abc"), 0, 1)
        sizes.append(sum(s.values.numel() for s in slices(alone, shapes, {}, dict.fromkeys("abc", Copies(rank, 5)))))
    assert max(sizes) - min(sizes) <= len(KINDS)


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_a_whole_tensor(shape: tuple[int, ...]) -> None:
    piece = whole("weight:a", torch.ones(shape))
    assert (piece.shape, piece.values.shape, piece.start, piece.cut) == (shape, (torch.Size(shape).numel(),), 0, None)


def test_nothing_is_copied() -> None:
    state = {f"{kind}:a": torch.zeros(4, 4) for kind in KINDS}
    for piece in slices(Flat(state, ["a"], 0, 1), {"a": (4, 4)}, {}, {"a": Copies(0, 1)}):
        piece.values.fill_(1)
    assert all(tensor.eq(1).all() for tensor in state.values())
