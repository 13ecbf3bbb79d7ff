"""What Ray leaves to us: reservations of actors that have died, and how little runs on a cluster of our own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from raysft.runtime.join import free_reservations

pytestmark = pytest.mark.ray

OWN = """
import json, ray
from raysft.runtime.join import cluster
with cluster():
    alive = [name for name, _ in ray._private.worker._global_node.live_processes()]
    print(json.dumps({"alive": alive, "ran": ray.get(ray.remote(lambda: 1 + 1).remote())}))
"""


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


def test_a_cluster_of_our_own_has_no_process_that_reads_logs_for_nobody() -> None:
    """In a process of its own: this one has joined another cluster."""
    said = subprocess.run([sys.executable, "-c", OWN], capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 0, said.stderr[-3000:]
    found = json.loads(said.stdout.splitlines()[-1])
    assert "raylet" in found["alive"]
    assert "log_monitor" not in found["alive"]
    assert found["ran"] == 2, "and it works"


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
