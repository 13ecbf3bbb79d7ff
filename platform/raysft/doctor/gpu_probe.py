"""What NVML says of the GPUs of a node. Where there is no NVML it says so; it resets and sets nothing.

Xid errors are in the kernel's log, which a container does not see: they are not read. ECC counters and remapped rows
are what the usual ones leave behind.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from raysft.doctor.facts import GpuHealth


def gpu_health() -> list[dict[str, Any]] | None:
    """Fields of facts.GpuHealth of each GPU; None: no NVML (no driver, or the package nvidia-ml-py is missing)."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # boundary: the library's errors are its own, and none of them is ours to mend
        return None
    try:
        return [asdict(_gpu(nvml, index)) for index in range(nvml.nvmlDeviceGetCount())]
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> GpuHealth:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    kind = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    rows = _or_none(nvml, lambda: nvml.nvmlDeviceGetRemappedRows(handle))
    return GpuHealth(
        index=index,
        name=name.decode() if isinstance(name, bytes) else str(name),
        ecc_errors=_or_none(nvml, lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, kind, nvml.NVML_VOLATILE_ECC)),
        remap_pending=bool(rows and rows[2]),
        remap_failed=bool(rows and rows[3]),
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        processes=len(_or_none(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or ()),
    )


def _or_none(nvml: Any, ask: Callable[[], Any]) -> Any:
    """What a card of this kind cannot tell is None."""
    with suppress(nvml.NVMLError):
        return ask()
    return None
