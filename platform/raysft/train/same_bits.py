"""Whether sums on a GPU are made in one order, so that a run done twice ends with the same bits.

Some CUDA kernels add up with atomics, in whatever order threads come: of attention's backward passes 26 of 40 shapes
gave the same bits again on an H200, all 40 with torch's deterministic algorithms (docs/benchmarks.md). On CPUs
nothing changes: there the order is fixed anyway.
"""

from __future__ import annotations

import os
from typing import Any

import torch

WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""What cuBLAS needs for it (docs.nvidia.com: cuBLAS, reproducibility), read when a process first multiplies."""


def fix_order(is_fixed: bool) -> None:
    """For all that this process computes from now on. An operation that has no such kernel raises RuntimeError."""
    if is_fixed:
        os.environ.update(WORKSPACE)
    torch.use_deterministic_algorithms(is_fixed)
    settings: Any = torch.utils.deterministic  # a module that makes itself a class
    settings.fill_uninitialized_memory = False  # it finds reads of such memory, and costs a pass over each tensor
