"""A rank's share of the state as it was at one moment, copied while the training goes on.

Forward and backward passes change no weight and no moment: a thread copies behind them, and the next update waits
until it is done (CheckFreq, Mohan et al., FAST 2021). From a GPU the copy runs on a stream of its own into pinned
memory, besides the kernels of the passes. The memory is kept from save to save.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from raysft.engine.slices import Slice

LOOK_S = 1.0
"""How often somebody who waits for the copy looks whether it makes progress."""


class Snapshot:
    """begin(), then take() in another thread; wait() before the state changes."""

    def __init__(self) -> None:
        self.share: dict[str, Slice] = {}
        """{key: slice} of the newest moment, in memory of its own."""
        self.waited_s = 0.0
        """How long updates have waited for copies: added to, until somebody takes it away."""
        self._is_taken = threading.Event()
        self._progress = 0
        self._moment: torch.cuda.Event | None = None

    def begin(self) -> None:
        """The moment is now. Called by the thread that trains."""
        self._is_taken.clear()
        if torch.cuda.is_initialized():
            self._moment = torch.cuda.Event()
            self._moment.record()

    def take(self, slices: Iterator[Slice], made_progress: Callable[[], None]) -> None:
        """Copy them, into the memory of the save before as far as that has the same."""
        try:
            with self._beside_the_passes():
                before, self.share = self.share, {}
                read = []  # by a stream that may not have come to them yet
                for piece in slices:
                    kept = before.pop(piece.key, None)
                    copied = _copied(piece.values, None if kept is None else kept.values)
                    self.share[piece.key] = replace(piece, values=copied)
                    read.append(piece)
                    self._progress += 1
                    made_progress()
        finally:
            self._is_taken.set()

    def wait(self, beat: Callable[[], None]) -> None:
        """Until the state may change. beat: called as long as the copy makes progress."""
        started, seen = time.monotonic(), -1
        while not self._is_taken.wait(LOOK_S):
            if seen != (seen := self._progress):
                beat()
        self.waited_s += time.monotonic() - started

    @contextmanager
    def _beside_the_passes(self) -> Iterator[None]:
        """On a GPU: a stream that begins at the moment, and has come to its end when the block has."""
        if self._moment is None:
            yield
            return
        stream = torch.cuda.Stream(self._moment.device)
        with torch.cuda.device(self._moment.device), torch.cuda.stream(stream):
            stream.wait_event(self._moment)
            yield
            stream.synchronize()


def _copied(values: Tensor, kept: Tensor | None) -> Tensor:
    """Copy fp32 values, [n], into host memory, `kept` where that has their size. From a GPU it is only asked for."""
    if kept is None or kept.shape != values.shape:
        kept = torch.empty(values.shape, dtype=torch.float32, pin_memory=values.is_cuda)
    if values.is_cuda:
        kept.copy_(values, non_blocking=True)
    else:  # torch would share it out among threads of its own, which the passes need
        np.copyto(kept.numpy(), values.detach().numpy())
    return kept
