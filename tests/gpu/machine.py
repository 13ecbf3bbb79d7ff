"""What the machine is and can do at best; whether workers can be made by fork() beside its driver."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from raysft.train.near_cpus import cpus_near, pci_address

if TYPE_CHECKING:
    from gpu.run import Options


def median_s(act: Callable[[], object], device: str, times: int = 7) -> float:
    """Median seconds of an act, its work on the device included; one run before the others is not counted."""
    seconds = []
    for _ in range(times + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        act()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])


def facts(options: Options) -> Iterator[dict[str, Any]]:
    """Names, versions, and the two ceilings: bytes copied and FLOP/s of a large bf16 product."""
    device, size = options.device, 512 if options.tiny else 8192
    x, y = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(2**20 if options.tiny else 2**30, device=device)
    target = torch.empty_like(source)
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "bf16_tflops": 2 * size**3 / median_s(lambda: x @ y, device) / 1e12,
        "copy_gb_s": 2 * source.nbytes / median_s(lambda: target.copy_(source), device) / 1e9,
    }
    if device == "cuda":
        import triton

        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,pci.bus_id", "--format=csv,noheader"]
        found["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        found["name"] = torch.cuda.get_device_name()
        found["nccl"], found["triton"] = ".".join(map(str, torch.cuda.nccl.version())), triton.__version__
        found["cpus"] = os.cpu_count()
        found["near_cpus"] = len(cpus_near(pci_address(torch.device("cuda"))))
        host = torch.empty(2**28, dtype=torch.uint8)
        pinned = host.pin_memory()
        for name, memory in (("pageable", host), ("pinned", pinned)):
            part = source.view(torch.uint8)[: len(memory)]
            found[f"{name}_to_gpu_gb_s"] = len(memory) / median_s(lambda p=part, m=memory: p.copy_(m), device) / 1e9
            found[f"{name}_to_host_gb_s"] = len(memory) / median_s(lambda p=part, m=memory: m.copy_(p), device) / 1e9
    yield found


def fork_server(options: Options) -> Iterator[dict[str, Any]]:
    """What a fork server finds after its imports, after which of them the driver was there, does a child compute."""
    from raysft.runtime import fork_client, fork_server

    searches = importlib.util.find_spec("optuna") is not None  # a machine for this kit may lack it
    modules = [name for name in fork_client.MODULES if searches or name != "raysft.search.tune_driver"]
    may_fork = fork_server._import_all(",".join(modules))
    yield {"may_fork": may_fork, "threads": thread_names(), "driver": driver_parts()}
    child = os.fork()
    if child == 0:
        total = float(torch.ones(8, device=options.device).sum())
        os._exit(0 if total == 8 else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    yield {"child": status, "ok": status == 0 and bool(may_fork)}


def driver_parts() -> list[str]:
    """Of the GPU's driver in this process: its libraries, its thread."""
    found = Path("/proc/self/maps").read_text() + " ".join(thread_names())
    return [sign for sign in ("libcuda.so", "libnvidia-ml.so", "cuda0") if sign in found]


def thread_names() -> list[str]:
    """Of this process."""
    return sorted((task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
