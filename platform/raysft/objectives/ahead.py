"""Micro-batches on their way to the device: each is copied while the one before it is computed.

On a GPU: all of a micro-batch in one buffer of pinned memory, copied in a stream of its own, which the passes' stream
waits for, not the host. On a CPU the arrays are where they are read, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from raysft.objectives.batch import DeviceBatch, HostBatch, moved, on_host
from raysft.objectives.known import ALONE, Part


class _Sent(NamedTuple):
    """A micro-batch on its way."""

    batch: DeviceBatch
    copied: torch.cuda.Event | None
    """Comes when it is there; None: it is."""


class Ahead:
    """ahead(batches) -> the same on the device, in their order, one of them early."""

    def __init__(self, device: torch.device, part: Part = ALONE) -> None:
        """part: which of every row's tokens are this rank's."""
        self._device, self._part = device, part
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterable[HostBatch]) -> Iterator[DeviceBatch]:
        """To be used in the stream that is current when each is asked for."""
        early: _Sent | None = None
        for batch in batches:
            following = self._sent(batch)
            if early is not None:
                yield self._arrived(early)
            early = following
        if early is not None:
            yield self._arrived(early)

    def _sent(self, batch: HostBatch) -> _Sent:
        here = on_host(batch, self._part)
        if self._copies is None:
            return _Sent(moved(here, self._device), None)
        with torch.cuda.stream(self._copies):
            return _Sent(moved(here, self._device, pinned=True), self._copies.record_event())

    def _arrived(self, sent: _Sent) -> DeviceBatch:
        if sent.copied is not None:
            passes = torch.cuda.current_stream(self._device)
            passes.wait_event(sent.copied)  # not for the stream: the copy that follows is in it already
            sent.batch.input_ids.record_stream(passes)  # all are views of one buffer: not used anew before it is read
        return sent.batch
