"""How many FLOP/s a worker could do at its best: from the data sheet of its GPU, or measured."""

from __future__ import annotations

import time
from functools import cache

import torch

from raysft.model.fast.onednn_linear import product
from raysft.recipe.gpus import of_product


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """(FLOP/s of this worker, where that comes from)."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        gpu = of_product(torch.cuda.get_device_name(device))
        if gpu is not None:
            return gpu.bf16_tflops * 1e12, f"data sheet of {gpu.product}, bf16 without sparsity"
    return measured_peak(device, dtype), f"matrix product measured at the start, {str(dtype).removeprefix('torch.')}"


@cache
def measured_peak(device: torch.device, dtype: torch.dtype, duration_s: float = 0.3) -> float:
    """FLOP/s of the fastest of the square matrix products that fit into the time (at least two). Once a process."""
    size = 8192 if device.type == "cuda" else 512  # milliseconds: some run between other processes' turns on a CPU
    left = torch.ones(size, size, dtype=dtype, device=device)
    fastest_s, runs, began = float("inf"), 0, time.perf_counter()
    while runs < 2 or time.perf_counter() - began < duration_s:
        started = time.perf_counter()
        product(left, left)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest_s, runs = min(fastest_s, time.perf_counter() - started), runs + 1
    return 2 * size**3 / fastest_s
