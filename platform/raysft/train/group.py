"""The ranks of one attempt, as the few collective acts that training needs besides the engine's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist


class Group(Protocol):
    """rank of size; every rank calls each method at the same point."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def barrier(self) -> None: ...
    def from_rank_0(self, value: int) -> int: ...
    def all_true(self, value: bool, while_waiting: Callable[[], None] | None = None) -> bool: ...
    def all_true_within(self, value: bool, timeout_s: float) -> bool: ...
    def sum(self, value: float) -> float: ...


class TorchGroup:
    """Group over torch.distributed's default process group."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def rank(self) -> int:
        """0-based number of this process."""
        return dist.get_rank()

    @property
    def size(self) -> int:
        """Number of processes."""
        return dist.get_world_size()

    def barrier(self) -> None:
        """Wait for all ranks (bounded by the process group's timeout)."""
        dist.all_reduce(torch.zeros(1, device=self._device))

    def from_rank_0(self, value: int) -> int:
        """Rank 0's integer, on every rank."""
        tensor = torch.tensor([value], dtype=torch.int64, device=self._device)
        dist.broadcast(tensor, src=0)
        return int(tensor.item())

    def all_true(self, value: bool, while_waiting: Callable[[], None] | None = None) -> bool:
        """Do all ranks say True? while_waiting: called again and again until all have said something."""
        tensor = torch.tensor([int(value)], dtype=torch.int64, device=self._device)
        work = dist.all_reduce(tensor, op=dist.ReduceOp.MIN, async_op=True)
        pause_s = 0.001
        while while_waiting and not work.is_completed():
            while_waiting()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.5)
        work.wait()
        return bool(tensor.item())

    def all_true_within(self, value: bool, timeout_s: float) -> bool:
        """As all_true, apart from all other communication. Raises RuntimeError when a rank does not come in time."""
        apart = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        tensor = torch.tensor([int(value)], dtype=torch.int64)
        try:
            dist.all_reduce(tensor, op=dist.ReduceOp.MIN, group=apart)
        finally:
            dist.destroy_process_group(apart)
        return bool(tensor.item())

    def sum(self, value: float) -> float:
        """Sum over all ranks, in float64."""
        tensor = torch.tensor([value], dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor)
        return float(tensor.item())
