"""A saved state is read by any range, in any layout, whichever ranks wrote it."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from whole_state import InMemory, shared_out

from raysft.engine.slices import Cut, Slice, whole
from raysft.errors import CheckpointError, StorageError
from raysft.train.commits.saved import SavedState, write_slices


def cut_in(name: str, tensor: Tensor, axis: int | None, shards: int, parts: int) -> list[Slice]:
    """Its slices: cut along an axis first, then each shard's flat values in so many ranges."""
    found = []
    cuts: list[Cut | None] = [None]
    if axis is not None:
        length = tensor.shape[axis] // shards
        cuts = [Cut(axis, i * length, (i + 1) * length) for i in range(shards)]
    for cut in cuts:
        part = tensor if cut is None else tensor.narrow(cut.axis, cut.first, cut.last - cut.first)
        flat = part.flatten()
        borders = [flat.numel() * i // parts for i in range(parts + 1)]
        for first, last in pairwise(borders):
            if first < last:
                found.append(Slice(name, tuple(tensor.shape), flat[first:last].clone(), first, cut))
    return found


def written(folder: Path, slices: list[Slice], files: int) -> SavedState:
    """In so many files, no file with a key twice; every second one is kept in memory."""
    rows: list[list[Slice]] = [[] for _ in range(files)]
    for piece in slices:
        row = next((row for row in rows if piece.key not in {other.key for other in row}), None)
        if row is None:
            rows.append(row := [])
        row.append(piece)
    names = [f"rank-{i:05d}.safetensors" for i in range(len(rows))]
    for name, row in zip(names, rows, strict=True):
        write_slices(str(folder / name), row)
        load_file(folder / name)  # others can read it
    return SavedState(str(folder), names, {name: bytearray((folder / name).read_bytes()) for name in names[::2]})


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_layout_reads_what_any_other_wrote(tmp_path: Path, data: st.DataObject) -> None:
    shape = [4 * n for n in data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))]
    tensor = torch.randn(shape)
    axis = st.none() | st.integers(0, len(shape) - 1)
    wrote = data.draw(st.tuples(axis, st.sampled_from([1, 2, 4]), st.integers(1, 5)))
    reads = data.draw(st.tuples(axis, st.sampled_from([1, 2, 4]), st.integers(1, 5)))
    saved = written(tmp_path, cut_in("weight:a", tensor, *wrote), data.draw(st.integers(1, 3)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    for piece in cut_in("weight:a", tensor, *reads):
        into = torch.full(piece.values.shape, torch.nan, dtype=dtype)
        saved.read("weight:a", into, piece.start, piece.cut)
        assert torch.equal(into, piece.values.to(dtype))
    assert torch.equal(saved.whole("weight:a"), tensor)
    saved.close()


def test_no_more_is_read_than_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank of twice as many, and one of a shard by rows: their own bytes, and headers."""
    tensor = torch.randn(64, 64)
    saved = written(tmp_path, cut_in("weight:a", tensor, None, 1, 2), 2)
    monkeypatch.setattr(saved, "_kept", {})
    asked: list[int] = []
    read = saved._bytes
    monkeypatch.setattr(
        saved, "_bytes", lambda file, offset, count: (asked.append(count), read(file, offset, count))[1]
    )
    saved.read("weight:a", torch.empty(1024), 1024)
    assert sum(asked) == 4096
    asked.clear()
    saved.read("weight:a", torch.empty(16, 64), 0, Cut(0, 16, 32))
    assert sum(asked) == 4096


def test_whole_tensors_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Layout 1: every rank wrote every size-th tensor whole."""
    state = {"adam_step": torch.tensor(3.0), "weight:a": torch.randn(4, 6), "exp_avg:a": torch.randn(4, 6)}
    for rank in range(2):
        own = {key: tensor for i, (key, tensor) in enumerate(state.items()) if i % 2 == rank}
        save_file(own, tmp_path / f"rank-{rank:05d}.safetensors")
    saved = SavedState(str(tmp_path), ["rank-00000.safetensors", "rank-00001.safetensors"], {})
    assert set(saved) == state.keys()
    assert all(torch.equal(saved.whole(key), tensor) for key, tensor in state.items())
    into = torch.empty(4, 3)
    saved.read("weight:a", into, 0, Cut(1, 3, 6))
    assert torch.equal(into, state["weight:a"][:, 3:])


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    tensor = torch.randn(4, 4)
    pieces = cut_in("weight:a", tensor, None, 1, 4)
    shards = cut_in("weight:b", tensor, 1, 2, 1)
    saved = written(tmp_path, [pieces[0], pieces[2], shards[0]], 2)
    saved.read("weight:a", torch.empty(4), 8)
    for act in (
        lambda: saved.read("weight:a", torch.empty(5), 8),
        lambda: saved.whole("weight:a"),
        lambda: saved.whole("weight:b"),
    ):
        with pytest.raises(CheckpointError, match="has not all of weight:"):
            act()
    with pytest.raises(CheckpointError, match="has no weight:c"):
        saved.whole("weight:c")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\x08\0\0\0\0\0\0\0[1, 2]  ",
        b"\xff" * 64,
        b"\x10\0\0\0\0\0\0\0{not json}      ",
        (60).to_bytes(8, "little") + json.dumps({"a": {"dtype": "F32"}}).encode().ljust(60),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "rank-00000.safetensors").write_bytes(damage)
    with pytest.raises(StorageError, match="cannot be read"):
        SavedState(str(tmp_path), ["rank-00000.safetensors"], {})


def test_files_that_vanish_are_told(tmp_path: Path) -> None:
    saved = written(tmp_path, [whole("weight:a", torch.ones(3)), whole("weight:a", torch.ones(3))][:1], 1)
    saved._kept = {}
    saved.close()
    (tmp_path / "rank-00000.safetensors").unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        saved.whole("weight:a")


def test_the_fake_of_the_tests_reads_alike(tmp_path: Path) -> None:
    state = {"weight:a": torch.randn(4, 6)}
    saved = written(tmp_path, list(shared_out(state, 0, 1)), 1)
    for cut, start, count in ((None, 0, 24), (None, 5, 7), (Cut(1, 2, 4), 3, 4), (Cut(0, 1, 3), 0, 12)):
        mine, theirs = torch.empty(count), torch.empty(count)
        saved.read("weight:a", mine, start, cut)
        InMemory(state).read("weight:a", theirs, start, cut)
        assert torch.equal(mine, theirs)
    assert math.prod(saved.whole("weight:a").shape) == 24
