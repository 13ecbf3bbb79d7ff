"""Hashes: numbers that look random and are the same on every machine; of a file while it is written."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

import numpy as np


def splitmix64(x: np.ndarray | np.uint64) -> np.ndarray:
    """Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators": the output function."""
    with np.errstate(over="ignore"):
        z = np.asarray(x, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class HashedStream:
    """A stream whose bytes are hashed while they are written."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.digest = stream, hashlib.sha256()
        self._written = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self._written += len(data)
        return self._stream.write(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        self._stream.flush()
