"""Ranges of tensors in files, against safetensors' own reading; files that are not what they were."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raysft.errors import ModelError
from raysft.model import stored
from raysft.model.stored import StoredTensor, stored_tensors

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    tensors = {str(dtype): torch.randn(6, 10, 4, generator=draw).to(dtype) for dtype in DTYPES}
    save_file(tensors | {"ids": torch.arange(3), "one": torch.ones(())}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def tensor(path: Path, name: str = "torch.float32") -> StoredTensor:
    found = stored_tensors(str(path))[name]
    assert isinstance(found, StoredTensor)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [7, 2**22])
def test_ranges_in_any_precision(path: Path, dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "BLOCK", block)
    whole = load_file(path)[str(dtype)].flatten()
    for start, count in ((0, 240), (13, 50), (239, 1), (240, 0)):
        for wanted in (torch.float32, torch.bfloat16):
            into = torch.full((count,), torch.nan, dtype=wanted)
            tensor(path, str(dtype)).read(into, start)
            assert torch.equal(into, whole[start : start + count].to(wanted))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parts_of_an_axis(path: Path, axis: int) -> None:
    whole = load_file(path)["torch.float32"]
    for number, part in enumerate(whole.chunk(2, dim=axis)):
        into = torch.full(part.shape, torch.nan)
        tensor(path).read_part(into, axis, number * part.shape[axis])
        assert torch.equal(into, part)


def test_what_is_kept_as_it_is_stored_takes_no_second_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, into = load_file(path)["torch.bfloat16"], torch.empty(6, 5, 4, dtype=torch.bfloat16)

    def another(*_: object, **__: object) -> Tensor:
        raise AssertionError("memory besides the tensor's own")

    monkeypatch.setattr(torch, "empty", another)
    tensor(path, "torch.bfloat16").read_part(into, 1, 5)
    assert torch.equal(into, whole[:, 5:])


def test_no_more_is_read_than_asked_for(path: Path) -> None:
    found = tensor(path)

    def read() -> int:
        counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(counters["rchar"])

    cost = -read() + read()  # of looking
    for act, elements in ((lambda: found.read(torch.empty(60), 60), 60), (lambda: cut(found), 120)):
        before = read()
        act()
        assert read() - before - cost == 4 * elements


def cut(found: StoredTensor) -> None:
    found.read_part(torch.empty(6, 5, 4), 1, 5)


def test_what_is_not_floating_point_is_named(path: Path) -> None:
    found = stored_tensors(str(path))
    assert found["ids"] == "I64"
    assert found["one"].shape == ()  # type: ignore[union-attr]


def into(found: StoredTensor) -> Tensor:
    return torch.empty(found.shape).view(-1)


@pytest.mark.parametrize("change", ["written", "replaced", "truncated", "gone"])
def test_a_file_that_changes_between_is_refused(path: Path, change: str) -> None:
    found, data = tensor(path), path.read_bytes()
    if change == "gone":
        path.unlink()
    elif change == "truncated":
        path.write_bytes(data[:-8])
    elif change == "written":
        path.write_bytes(data)
        os.utime(path, ns=(1, 1))
    else:
        other = path.with_suffix(".new")
        other.write_bytes(data)
        os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        other.replace(path)
    with pytest.raises(ModelError, match="have changed while they were loaded") as refused:
        found.read(into(found))
    assert str(path) in refused.value.what
    assert refused.value.fix


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"[" * (len(data) - 8),
        lambda data: data.replace(b'"shape":[6,10,4]', b'"shape":[6,10,5]', 1),
        lambda data: data.replace(b'"data_offsets"', b'"data_offsett"', 1),
    ],
)
def test_a_file_that_is_not_as_its_header_says_is_refused(path: Path, damage: object) -> None:
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ModelError, match="are damaged") as refused:
        stored_tensors(str(path))
    assert refused.value.got
    assert refused.value.fix
