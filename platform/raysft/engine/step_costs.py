"""What a step cost on each rank, and the one vector in which all ranks tell each other about a step."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from raysft.engine.protocol import StepCosts

_all_gather = dist.all_gather_single if hasattr(dist, "all_gather_single") else dist.all_gather_into_tensor
"""torch 2.13 gave it a new name."""


_COSTS = 5
"""Numbers in which a rank tells the costs of a step."""


class Gathered(NamedTuple):
    """What all ranks told each other."""

    told: np.ndarray
    """[ranks, values] float64."""
    costs: StepCosts
    asides: tuple[tuple[float, ...], ...]


class StepWatch:
    """Made when a step starts. On a GPU the passes are timed there: the host only queues them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started, self._ended = time.perf_counter(), 0.0
        self._events = [torch.Event(device, enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self._forward_s, self._forwards = 0.0, list[tuple[torch.Event, torch.Event]]()
        if self._events:
            self._events[0].record()

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Inside: a forward pass."""
        if not self._events:
            started = time.perf_counter()
            yield
            self._forward_s += time.perf_counter() - started
            return
        began, ended = (torch.Event(self._device, enable_timing=True) for _ in range(2))
        began.record()
        yield
        ended.record()
        self._forwards.append((began, ended))

    def backward_ended(self) -> None:
        """All forward and backward passes are done (on a GPU: queued)."""
        self._ended = time.perf_counter()
        if self._events:
            self._events[1].record()

    def gather(self, told: Tensor, aside: Sequence[float]) -> Gathered:
        """What every rank tells, and the costs of the step. told: [values] float64. Collective; waits for it."""
        passes_s = self._passes_s()
        memory = (peak_bytes(self._device), *device_bytes(self._device))
        costs = [*aside, passes_s, self._forward_passes_s(), *memory]
        mine = torch.cat([told, told.new_tensor(costs)])
        everyone = mine
        if dist.get_world_size() > 1:  # alone, gloo takes 1 ms to say so
            everyone = mine.new_empty(dist.get_world_size() * len(mine))
            _all_gather(everyone, mine)
        ranks = everyone.reshape(-1, len(mine)).cpu().numpy()
        passes, forward, *memories = ranks[:, -_COSTS:].T
        peak, reserved, in_use = (int(each.max()) for each in memories)
        return Gathered(
            ranks[:, : len(told)],
            StepCosts(
                tuple(passes.tolist()),
                tuple(forward.tolist()),
                peak_bytes=peak,
                reserved_bytes=None if reserved < 0 else reserved,
                device_bytes=None if in_use < 0 else in_use,
            ),
            tuple(map(tuple, ranks[:, len(told) : -_COSTS].tolist())),
        )

    def _passes_s(self) -> float:
        if not self._events:
            return self._ended - self._started
        self._events[1].synchronize()  # the update has waited for it already
        return float(self._events[0].elapsed_time(self._events[1])) / 1000

    def _forward_passes_s(self) -> float:
        """After _passes_s(): events of the passes have come to pass."""
        on_gpu_s = sum(began.elapsed_time(ended) for began, ended in self._forwards) / 1000
        return self._forward_s + on_gpu_s


def peak_bytes(device: torch.device) -> int:
    """Peak of the CUDA allocator since its last reset, or of the resident set without a GPU (Linux counts in KiB)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_bytes(device: torch.device) -> tuple[int, int]:
    """(what the CUDA allocator held at most since its last reset, what is in use on the GPU by all processes); -1
    each without a GPU."""
    if device.type != "cuda":
        return -1, -1
    free, total = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_reserved(device), total - free
