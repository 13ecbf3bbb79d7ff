"""What the readers find in a file."""

from __future__ import annotations

from raysft.data.read.readers import byte_ranges, read_range
from raysft.data.records import Refusal


def values(path, range_bytes=1 << 20):
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    pieces = byte_ranges(str(path), kind, path.stat().st_size, range_bytes)
    return [found for piece in pieces for found in read_range(str(path), kind, *piece)]


def outcomes(path):
    return [value.reason if isinstance(value, Refusal) else value for _, value in values(path)]
