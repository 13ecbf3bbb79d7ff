"""Tensors in safetensors files: what a file holds, and reading of any part of a tensor without the rest.

Owns the file format (https://huggingface.co/docs/safetensors: eight bytes, a JSON header, the numbers) and the check
that a file is still the one that was opened. `safetensors` itself reads a tensor whole where it does not map the
file, and pages of a mapped file count to the process.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from raysft.errors import ModelError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Numbers that are cast to the precision of the training; a tensor of any other kind needs more than a cast."""
BLOCK = 2**22
"""Elements that are read at a time: what a tensor costs, of another precision or for a GPU, besides its place."""
_LONGEST_HEADER = 100_000_000
"""Bytes: safetensors' own limit."""

Identity = tuple[int, int, int]
"""Inode, bytes, nanoseconds of the last change."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of floating-point numbers in a file."""

    path: str
    file: Identity
    name: str
    dtype: torch.dtype
    shape: torch.Size
    offset: int
    """Where its first byte is in the file."""

    def read(self, into: Tensor, start: int = 0) -> None:
        """Fill `into`, [n], of any precision, on any device, with elements start .. start + n. Raises ModelError."""
        with self._opened() as file:
            for first in range(0, into.numel(), BLOCK):
                self._fill(file, into[first : first + BLOCK], start + first)

    def read_part(self, into: Tensor, axis: int, start: int) -> None:
        """Fill `into` with the part that begins at `start` of an axis. Raises ModelError."""
        rows, step, first = rows_of_part(self.shape, into, axis, start)
        if len(rows) == 1:
            self.read(rows[0], first)
            return
        with self._opened() as file:
            for number, row in enumerate(rows):
                self._fill(file, row, number * step + first)

    def _fill(self, file: int, into: Tensor, start: int) -> None:
        """`into`, [n], with the elements from `start` on: straight from the file where they are stored as they are
        kept, so that a model that is loaded leaves no freed blocks between its weights."""
        is_direct = into.dtype == self.dtype and into.device.type == "cpu" and into.is_contiguous()
        found = into.detach() if is_direct else torch.empty(into.shape, dtype=self.dtype)
        left, at = memoryview(found.view(torch.uint8).numpy().data), self.offset + start * self.dtype.itemsize
        while left:
            read = os.preadv(file, [left], at)
            if read == 0:
                _has_changed(self.path, f"it ends at byte {at:,}, in {self.name}")
            left, at = left[read:], at + read
        if not is_direct:
            into.copy_(found)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file, the same before and after."""
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            _has_changed(self.path, str(error))
        try:
            _is_same(self, file)
            yield file
            _is_same(self, file)
        except OSError as error:
            raise ModelError(
                f"the weights {self.path} cannot be read",
                got=str(error),
                expected="a file that can be read while the model is loaded",
                fix="check the storage that it lies on, and start again",
            ) from error
        finally:
            os.close(file)


def rows_of_part(shape: torch.Size, into: Tensor, axis: int, start: int) -> tuple[Tensor, int, int]:
    """How the part `into`, which begins at `start` of an axis, lies in a flat tensor of this shape.

    Returns (`into` as [rows, elements], elements from the beginning of a row to that of the next, those before the
    first)."""
    inner = shape[axis + 1 :].numel()
    return into.view(-1, into.shape[axis] * inner), shape[axis] * inner, start * inner


def stored_tensors(path: str) -> dict[str, StoredTensor | str]:
    """{name: a tensor of the file, or the kind of numbers that it has where they are not floating-point}.

    Raises ModelError for a file that is not as its header says.
    """
    try:
        with open(path, "rb") as file:
            identity = _identity(os.fstat(file.fileno()))
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LONGEST_HEADER, identity[1] - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {identity[1]:,}")
            header = json.loads(file.read(length))
        return _tensors_of(path, identity, 8 + length, header)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"the weights {path} are damaged",
            got=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            expected="a whole file of safetensors",
            fix="download or export the model again",
        ) from error


def _tensors_of(
    path: str, file: Identity, start: int, header: dict[str, dict[str, Any]]
) -> dict[str, StoredTensor | str]:
    found: dict[str, StoredTensor | str] = {}
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, shape = str(entry["dtype"]), torch.Size(entry["shape"])
        first, last = map(int, entry["data_offsets"])
        end = max(end, last)
        if kind not in DTYPES:
            found[name] = kind
        elif last - first != math.prod(shape) * DTYPES[kind].itemsize or first < 0:
            raise ValueError(f"{name} of {list(shape)} {kind} has {last - first:,} bytes")
        else:
            found[name] = StoredTensor(path, file, name, DTYPES[kind], shape, start + first)
    if start + end != file[1]:
        raise ValueError(f"{file[1]:,} bytes, its header says {start + end:,}")
    return found


def _identity(stat: os.stat_result) -> Identity:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _is_same(tensor: StoredTensor, file: int) -> None:
    if _identity(os.fstat(file)) != tensor.file:
        _has_changed(tensor.path, "another size, time or inode than when the run began to load it")


def _has_changed(path: str, got: str) -> NoReturn:
    raise ModelError(
        f"the weights {path} have changed while they were loaded",
        got=got,
        expected="the same file from its header to its last tensor",
        fix="let nothing write to the model's directory, and start again",
    )
