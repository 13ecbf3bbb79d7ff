"""The doctor on a cluster: one that is well, a storage that cannot be written, a demand that nothing can meet."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray

from raysft.doctor.checks import examine
from raysft.doctor.examination import gather
from raysft.doctor.facts import Security
from raysft.runtime.on_nodes import alive_nodes, collect, on_node

pytestmark = pytest.mark.ray


def test_a_cluster_of_this_machine_is_well(ray_cluster: None, tmp_path: Path) -> None:
    facts = gather(None, str(tmp_path), Security("", False, False, [], "127.0.0.1:6379"))
    found = examine(facts)
    assert [one for one in found if one.verdict == "fail" and one.check != "disks"] == []
    (one,) = facts.nodes
    assert one.storage is not None
    assert (one.storage.error, one.storage.sees_marker) == ("", True)
    assert one.clock_offset_s is not None
    assert abs(one.clock_offset_s) < 1
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def test_faults_of_a_cluster_that_runs(ray_cluster: None) -> None:
    hopeless = ray.remote(num_cpus=99)(Hopeless).remote()
    deadline, facts = time.monotonic() + 30, gather(None, "/proc/raysft", None)
    while not any(one.is_impossible for one in facts.pending):
        assert time.monotonic() < deadline
        facts = gather(None, "/proc/raysft", None)
    ray.kill(hopeless)
    failed = {one.check: one.evidence for one in examine(facts) if one.verdict == "fail"}
    assert "/proc/raysft cannot be written" in failed["storage"]
    assert "1 x {CPU: 99}" in failed["demands"]


def test_tasks_that_fail_do_not_end_the_doctor(ray_cluster: None) -> None:
    """Ray 2.60 aborts a driver that cancels a task which has just failed: once in some hundred of them."""
    node, failures = alive_nodes()[0], 0
    for _ in range(150):
        results, failed = collect({str(i): on_node(node, ill, i) for i in range(4)}, 30)
        assert results == {}
        failures += len(failed)
    assert failures == 600
    assert failed["3"] == "ValueError: 3 is ill"


def ill(number: int) -> None:
    """A task of a node that is not well."""
    raise ValueError(f"{number} is ill")


class Hopeless:
    """An actor that never starts."""
