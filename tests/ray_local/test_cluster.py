"""Ray keeps the CPUs of a placement group whose actor has died: they are free again, and a living one's stay."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from raysft.orchestrate.cluster import free_reservations

pytestmark = pytest.mark.ray


class Maker:
    """An actor that reserves a CPU, as Ray Train's controller does for its workers."""

    def reserve(self) -> bool:
        self.group = placement_group([{"CPU": 1}])
        return bool(self.group.wait(30))


def test_what_a_dead_actor_reserved_is_free_again(ray_cluster: None) -> None:
    kept = placement_group([{"CPU": 1}])
    assert kept.wait(30)
    maker = ray.remote(num_cpus=0)(Maker).remote()
    assert ray.get(maker.reserve.remote())
    free_reservations()
    time.sleep(0.5)
    assert free_cpus() == 0
    ray.kill(maker)
    until(lambda: (free_reservations(), free_cpus() == 1)[1])
    remove_placement_group(kept)
    until(lambda: free_cpus() == 2)


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
