"""What a step cost on each rank, in the vector in which ranks tell each other; here a group of one, and of three."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from raysft.engine import step_costs
from raysft.engine.step_costs import StepWatch, peak_bytes

CPU = torch.device("cpu")


@pytest.fixture
def alone() -> Iterator[None]:
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_forward_passes_are_timed_apart_from_backward() -> None:
    watch = StepWatch(CPU)
    for _ in range(2):
        with watch.forward():
            time.sleep(0.02)
        time.sleep(0.03)
    watch.backward_ended()
    time.sleep(0.05)  # the update: no pass
    told = torch.tensor([1.5, 2.5], dtype=torch.float64)
    found = watch.gather(told, (7.0, 8.0))
    assert found.told.tolist() == [[1.5, 2.5]]
    assert found.asides == ((7.0, 8.0),)
    (passes,), (forward,) = found.costs.passes_s, found.costs.forward_s
    assert 0.04 <= forward < 0.06 + 0.04
    assert 0.1 <= passes < 0.15
    assert passes - forward > 0.05


@pytest.mark.usefixtures("alone")
def test_ranks_stand_in_their_order_and_the_largest_peak_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more ranks tell the same with other numbers."""

    def gather(everyone: Tensor, mine: Tensor) -> None:
        factors = torch.tensor([[1.0], [10.0], [0.5]], dtype=mine.dtype)
        everyone.copy_((factors * mine).reshape(-1))

    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(step_costs, "_all_gather", gather)
    monkeypatch.setattr(step_costs, "peak_bytes", lambda device: 1000)
    monkeypatch.setattr(step_costs, "device_bytes", lambda device: (3000, 7000))
    watch = StepWatch(CPU)
    watch.backward_ended()
    found = watch.gather(torch.tensor([4.0], dtype=torch.float64), (2.0,))
    assert found.told.tolist() == [[4.0], [40.0], [2.0]]
    assert found.asides == ((2.0,), (20.0,), (1.0,))
    assert found.costs.peak_bytes == 10_000
    assert (found.costs.reserved_bytes, found.costs.device_bytes) == (30_000, 70_000)
    mine, ten, half = found.costs.passes_s
    assert (ten, half) == pytest.approx((10 * mine, mine / 2))


@pytest.mark.usefixtures("alone")
def test_without_a_gpu_nothing_is_told_of_its_memory() -> None:
    watch = StepWatch(CPU)
    watch.backward_ended()
    costs = watch.gather(torch.zeros(1, dtype=torch.float64), ()).costs
    assert costs.peak_bytes > 0
    assert (costs.reserved_bytes, costs.device_bytes) == (None, None)


def test_the_peak_is_the_process_in_bytes() -> None:
    before = peak_bytes(CPU)
    assert before > 50 * 2**20, "an interpreter with torch"
    block = torch.ones(2**28, dtype=torch.uint8)  # 256 MiB
    assert peak_bytes(CPU) - before >= 0
    assert peak_bytes(CPU) > block.numel()
