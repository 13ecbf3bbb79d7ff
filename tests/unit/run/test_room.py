"""The memory that a process may have is the least of what machine, container and its own limit leave."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes import recipe_8b

from raysft.errors import ModelError
from raysft.model.shape import read_shape
from raysft.planner.devices import GIB
from raysft.planner.tasks import evaluation_memory
from raysft.recipe.change import change
from raysft.run import room
from raysft.run.room import _container, host_memory, room_of

MIB = 2**20


def test_of_the_machine_as_the_kernel_tells_it() -> None:
    pages = int(subprocess.run(["free", "-b"], capture_output=True, text=True, check=True).stdout.split()[12])
    assert host_memory() <= 1.2 * pages


@pytest.mark.parametrize("version", [1, 2])
def test_of_a_container_without_what_is_only_cached(tmp_path: Path, version: int) -> None:
    folder = tmp_path / "memory" if version == 1 else tmp_path
    folder.mkdir(exist_ok=True)
    most, used, cached = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / most).write_text(f"{900 * MIB}\n")
    (folder / used).write_text(f"{500 * MIB}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{cached} {100 * MIB}\n")
    assert _container(tmp_path) == 500 * MIB
    (folder / most).write_text("max\n")
    assert _container(tmp_path) == float("inf")


def test_of_its_own_limit(tmp_path: Path) -> None:
    program = (
        "import resource; from raysft.run.room import host_memory, _field; from pathlib import Path;"
        "used = _field(Path('/proc/self/status'), 'VmData');"
        f"resource.setrlimit(resource.RLIMIT_DATA, (int(used) + {300 * MIB},) * 2); print(host_memory())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert 290 * MIB < float(told) <= 301 * MIB
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY, "of this process"


def test_passes_of_rows_and_answers_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_8b(data={"eval_fraction": 0.1}, evaluate={"generate_prompts": 32})
    shape = read_shape(recipe)
    monkeypatch.setattr(room, "host_memory", lambda: 200.0 * GIB)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)  # of workers with one each
    on_cpu, of_cpu = (
        room_of(recipe, vocab_size=5, tasks=2, folder="f"),
        evaluation_memory(recipe, shape, is_gpu=False),
    )
    (there,) = on_cpu.devices.values()
    assert there == 99.5 * GIB - max(of_cpu.passing, of_cpu.row, of_cpu.answers)
    gpus = recipe_8b(data={"eval_fraction": 0.1}, evaluate={"generate_prompts": 32}, cluster={"gpus_per_worker": 1})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((80 - device.index) * GIB, 80 * GIB))
    on_gpu, of_gpu = room_of(gpus, vocab_size=5, tasks=2, folder="f"), evaluation_memory(gpus, shape, is_gpu=True)
    passes = max(of_gpu.row, of_gpu.answers // 2)
    assert [*on_gpu.devices.values()] == [79.5 * GIB - passes, 78.5 * GIB - passes]
    assert on_gpu.host == 99.5 * GIB - of_gpu.passing
    monkeypatch.setattr(room, "host_memory", lambda: 40.0 * GIB)
    assert room_of(gpus, vocab_size=5, tasks=40, folder="f").host == max(0, 0.95 * 5 * GIB - of_gpu.passing)
    eager = change(
        gpus, {"model.attention": "eager", "data.max_tokens": 131_072}
    )  # scores of 2 TB, were rows so long
    assert [*room_of(eager, vocab_size=5, tasks=2, folder="f").devices.values()] == [79.5 * GIB / 2, 78.5 * GIB / 2]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ModelError, match="sees no GPU"):
        room_of(gpus, vocab_size=5, tasks=2, folder="f")
