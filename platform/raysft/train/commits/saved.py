"""The state at a commit, by tensors and ranges of them, whichever ranks wrote it. Reads no more than is asked for.

Each file is a safetensors file (huggingface.co/docs/safetensors: length of the header, header, data). A whole tensor
stands in it as anywhere. A slice of one is [n] numbers, and the header's `__metadata__` says under the same key, in
JSON, of what: [shape of the whole tensor, first element, null or [axis, first, last] of the shard].
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysft import storage
from raysft.engine.slices import Cut, Slice
from raysft.errors import CheckpointError, StorageError

_BLOCK_BYTES = 16 << 20
_MAX_HEADER_BYTES = 100_000_000  # of the format
_READERS = 16
"""Headers read at a time: object stores take their time over each."""


def write_slices(
    location: str, slices: Sequence[Slice], made_progress: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Write fp32 CPU slices as one file. Returns its {bytes, sha256}.

    Written from their own memory, so that the file is never held a second time. made_progress: called block by block.
    """
    header: dict[str, Any] = {}
    places, end = {}, 0
    for piece in slices:
        begin, end = end, end + 4 * piece.values.numel()
        is_whole = piece.values.numel() == math.prod(piece.shape) and piece.cut is None
        shape = piece.shape if is_whole else (piece.values.numel(),)
        header[piece.key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
        if not is_whole:
            cut = piece.cut and [piece.cut.axis, piece.cut.first, piece.cut.last]
            places[piece.key] = json.dumps([list(piece.shape), piece.start, cut])
    if places:
        header["__metadata__"] = places
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, size = hashlib.sha256(), 0
    with storage.write_stream(location) as stream:
        for part in (len(text).to_bytes(8, "little"), text, *(_bytes_of(piece.values) for piece in slices)):
            for begin in range(0, len(part), _BLOCK_BYTES):
                block = memoryview(part)[begin : begin + _BLOCK_BYTES]
                stream.write(block)
                digest.update(block)
                made_progress()
            size += len(part)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _bytes_of(values: Tensor) -> bytes | memoryview:
    assert values.dtype == torch.float32
    return values.contiguous().numpy().reshape(-1).view(np.uint8).data if values.numel() else b""


@dataclass(frozen=True)
class _Piece:
    """A slice in a file: `count` numbers from byte `offset` on."""

    file: str
    offset: int
    shape: tuple[int, ...]
    start: int
    count: int
    cut: Cut | None


class SavedState:
    """See the module, and engine/slices.py: Saved. Not for several threads at once."""

    def __init__(self, location: str, files: Sequence[str], kept: Mapping[str, bytearray]) -> None:
        """location: directory of the files. kept: {name of a file: its bytes} of those that are in memory already.

        Raises StorageError.
        """
        self._location, self._kept = location, kept
        self._open: dict[str, storage.RandomReader] = {}
        self._pieces: dict[str, list[_Piece]] = {}
        with ThreadPoolExecutor(_READERS) as threads:
            for pieces in threads.map(self._header, files):
                for key, piece in pieces.items():
                    self._pieces.setdefault(key, []).append(piece)

    def __contains__(self, key: object) -> bool:
        return key in self._pieces

    def __iter__(self) -> Iterator[str]:
        """Keys of every tensor, in no order that matters."""
        return iter(self._pieces)

    def read(self, key: str, into: Tensor, start: int = 0, cut: Cut | None = None) -> None:
        """See Saved. What tensor-parallel ranks wrote goes whole through memory where it is cut otherwise now."""
        pieces = self._of(key)
        if cut and cut.axis == 0 and all(piece.cut is None for piece in pieces):
            start, cut = start + cut.first * math.prod(pieces[0].shape[1:]), None
        if any(piece.cut == cut for piece in pieces):
            values = self._range(key, cut, start, into.numel())
        else:
            tensor = self.whole(key)
            part = tensor if cut is None else tensor.narrow(cut.axis, cut.first, cut.last - cut.first)
            values = part.reshape(-1)[start : start + into.numel()]
        with torch.no_grad():
            into.copy_(values.view(into.shape))

    def whole(self, key: str) -> Tensor:
        """See Saved."""
        pieces = self._of(key)
        shape = pieces[0].shape
        tensor = torch.empty(shape)
        cuts = {piece.cut for piece in pieces}
        if None in cuts:
            return self._range(key, None, 0, tensor.numel()).view(shape)
        if sum(cut.last - cut.first for cut in cuts if cut) != shape[next(cut.axis for cut in cuts if cut)]:
            raise _incomplete(key, self._location)
        for cut in filter(None, cuts):
            shard = tensor.narrow(cut.axis, cut.first, cut.last - cut.first)
            shard.copy_(self._range(key, cut, 0, shard.numel()).view(shard.shape))
        return tensor

    def close(self) -> None:
        """Close the files."""
        for reader in self._open.values():
            reader.close()
        self._open.clear()

    def _of(self, key: str) -> list[_Piece]:
        if key not in self._pieces:
            raise CheckpointError(
                f"the checkpoint has no {key}",
                got=f"{len(self._pieces):,} tensors in {self._location}",
                expected="the state of every parameter that is trained",
                fix="resume with the recipe that made the checkpoint (model, method)",
            )
        return self._pieces[key]

    def _range(self, key: str, cut: Cut | None, start: int, count: int) -> Tensor:
        """[count] elements of the flat tensor, or of its shard."""
        found, missing = torch.empty(count), count
        for piece in self._pieces[key]:
            first, last = max(piece.start, start), min(piece.start + piece.count, start + count)
            if piece.cut == cut and first < last:
                data = self._bytes(piece.file, piece.offset + 4 * (first - piece.start), 4 * (last - first))
                found.numpy()[first - start : last - start] = np.frombuffer(data, np.float32)
                missing -= last - first
        if missing:
            raise _incomplete(key, self._location)
        return found

    def _bytes(self, file: str, offset: int, count: int) -> bytes | memoryview:
        if file in self._kept:
            return memoryview(self._kept[file])[offset : offset + count]
        try:
            if file not in self._open:
                self._open[file] = storage.open_random(storage.join(self._location, file))
            data = self._open[file].read_at(count, offset)
        except OSError as error:
            raise _unreadable(self._location, file, f"{type(error).__name__}: {error}") from error
        if len(data) != count:
            raise _unreadable(self._location, file, f"{len(data)} of {count} bytes at {offset}")
        return data

    def _header(self, file: str) -> dict[str, _Piece]:
        """{key: slice} of a file."""
        size = int.from_bytes(self._bytes(file, 0, 8), "little")
        if size > _MAX_HEADER_BYTES:
            raise _unreadable(self._location, file, f"a header of {size:,} bytes")
        try:
            header = json.loads(bytes(self._bytes(file, 8, size)))
            places = {key: json.loads(place) for key, place in header.pop("__metadata__", {}).items()}
            return dict(_pieces(file, 8 + size, header, places))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _unreadable(self._location, file, f"a header that is none ({error})") from error


def _pieces(file: str, data: int, header: Any, places: Mapping[str, Any]) -> Iterator[tuple[str, _Piece]]:
    """From a file's header. data: where its data begin."""
    for key, entry in header.items():
        shape, start, cut = places.get(key, (entry["shape"], 0, None))
        count, offset = math.prod(entry["shape"]), data + entry["data_offsets"][0]
        yield key, _Piece(file, offset, tuple(shape), start, count, Cut(*cut) if cut else None)


def _incomplete(key: str, location: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint has not all of {key}",
        got=f"slices with gaps in {location}",
        expected="every element once",
        fix="remove this step's directory: the run then goes on from the commit before",
    )


def _unreadable(location: str, file: str, got: str) -> StorageError:
    """Its checksum was right a moment ago: what storage does may pass, so the next attempt tries again."""
    return StorageError(
        f"the checkpoint file {storage.join(location, file)} cannot be read",
        got=got,
        expected="the file that the commit record names",
        fix="look at the storage, then start the run again: it reads its checkpoints anew",
    )
