"""What is asked of NVML, against a module with its functions and errors: no machine of CI has a GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from raysft.doctor.facts import GpuHealth
from raysft.doctor.gpu_probe import gpu_health


class NVMLError(Exception):
    """As the library's."""


class FakeNvml(SimpleNamespace):
    """nvidia-ml-py with two GPUs; the second has no ECC and no remapping."""

    NVMLError = NVMLError
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0
    open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes | str:  # noqa: N802
        return b"NVIDIA H100" if handle == 0 else "NVIDIA T4"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=100, used=7)

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:  # noqa: N802
        if handle:
            raise NVMLError("Not Supported")
        assert (kind, counter) == (1, 0)
        return 3

    def nvmlDeviceGetRemappedRows(self, handle: int) -> tuple[int, int, int, int]:  # noqa: N802
        if handle:
            raise NVMLError("Not Supported")
        return (1, 0, 1, 0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[str]:  # noqa: N802
        return ["one"]


def test_each_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = [GpuHealth(**gpu) for gpu in gpu_health() or ()]
    assert found == [
        GpuHealth(0, "NVIDIA H100", 3, True, False, 100, 7, 1),
        GpuHealth(1, "NVIDIA T4", None, False, False, 100, 7, 1),
    ]
    assert nvml.open == 0


def test_without_a_driver_it_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()

    def fail() -> None:
        raise NVMLError("Driver Not Loaded")

    nvml.nvmlInit = fail  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpu_health() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # the package is missing
    assert gpu_health() is None
