"""What a task of the cluster has for a model: its GPUs, or the CPU, and host memory beside them.

Owns how that is measured; where a model's layers go is model/spread.py's, what passes need the planner's.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

from raysft.errors import ModelError
from raysft.model.shape import read_shape
from raysft.model.spread import CPU, Room
from raysft.planner.devices import GIB
from raysft.planner.tasks import evaluation_memory
from raysft.recipe.change import change
from raysft.recipe.schema import Recipe

SLACK = 0.05, GIB / 2
"""Share of each device and of host memory for what no plan counts, and the most that this is in bytes."""


def room_of(recipe: Recipe, *, vocab_size: int, tasks: int, folder: str, rows: int = 1) -> Room:
    """Where a model may lie that is asked, in the process of its task.

    vocab_size: of rows_for(the tokenizer). tasks: that work at once, on all nodes. folder: for layers that fit
    nowhere else. rows: of a forward pass. Raises ModelError.
    """
    if recipe.model.config is not None:
        recipe = change(recipe, {"model.config.vocab_size": recipe.model.config.get("vocab_size", vocab_size)})
    is_gpu = bool(recipe.cluster.gpus_per_worker)
    needed = evaluation_memory(recipe, read_shape(recipe), is_gpu=is_gpu)
    on_node = max(1, min(tasks, (os.cpu_count() or 1) // recipe.cluster.cpus_per_worker))
    host = _usable(host_memory() / on_node)
    if not is_gpu:
        return Room({CPU: _without(host, max(needed.passing, rows * needed.row, needed.answers))}, folder=folder)
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if not devices:
        raise ModelError(
            "the task that asks a model sees no GPU",
            got="torch counts 0 CUDA devices where Ray has reserved one",
            expected="the GPU of cluster.gpus_per_worker",
            fix="see `raysft doctor`: the node's driver, or a torch that was built without CUDA",
        )
    passes = max(rows * needed.row, needed.answers // len(devices))
    free = {one: _without(_usable(torch.cuda.mem_get_info(one)[0]), passes) for one in devices}
    return Room(free, max(0.0, host - needed.passing), folder)


def _without(free: float, passes: float) -> float:
    """What is left for weights: at least half, for rows and answers may be far shorter than they can be."""
    return max(free - passes, free / 2)


def _usable(free: float) -> float:
    share, most = SLACK
    return free - min(share * free, most)


def host_memory() -> float:
    """Bytes that this process can still have: of the machine, its container, its own limit; inf: nobody says."""
    return min(_machine(), _container(Path("/sys/fs/cgroup")), _process())


def _machine() -> float:
    return _field(Path("/proc/meminfo"), "MemAvailable")


def _container(root: Path) -> float:
    """By control groups, version 2 or 1; what is only cached counts as free."""
    for folder, most, used, cached in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit, usage = ((folder / name).read_text().strip() for name in (most, used))
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return int(limit) - int(usage) + int(statistics.get(cached, 0))
        except (OSError, ValueError):
            continue  # there is none, or it is `max`
    return float("inf")


def _process() -> float:
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return float("inf") if limit == resource.RLIM_INFINITY else limit - _field(Path("/proc/self/status"), "VmData")


def _field(path: Path, name: str) -> float:
    """A line `name: N kB` in bytes; inf: not there."""
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        return int(lines[name].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return float("inf")
