"""Latency and bandwidth between nodes, as gloo has them: one process on each, in one group."""

from __future__ import annotations

import statistics
import time
from datetime import timedelta

import torch
import torch.distributed as dist

SMALL, LARGE, TIMES, TIMEOUT_S = 8, 16 << 20, 20, 60
"""Bytes of the two all-reduces, how often the small one, and how long a node may take to come."""


def measure_link(rank: int, size: int, address: str, port: int) -> dict[str, float]:
    """{"latency_ms", "mb_s"} of this rank. Rank 0 listens at address:port. Raises what torch raises."""
    limit = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group("gloo", f"tcp://{address}:{port}", timeout=limit, rank=rank, world_size=size)
    try:
        small, large = torch.zeros(SMALL, dtype=torch.uint8), torch.zeros(LARGE, dtype=torch.uint8)
        latencies = [_timed(small) for _ in range(TIMES)]
        seconds = min(_timed(large) for _ in range(3))
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return {"latency_ms": 1e3 * statistics.median(latencies), "mb_s": LARGE / 1e6 / seconds}


def _timed(tensor: torch.Tensor) -> float:
    began = time.perf_counter()
    dist.all_reduce(tensor)
    return time.perf_counter() - began
