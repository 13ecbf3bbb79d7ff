"""Which nodes a run gets that fills them, by statuses as the head gives them. No Ray is started."""

from __future__ import annotations

import pytest
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus

from raysft.runtime import whole_nodes as module
from raysft.runtime.whole_nodes import node_selectors, whole_nodes

ONE = {"CPU": 2.0, "GPU": 1.0}


def status(*nodes: tuple[float, ...], kinds: str = "", states: tuple[int, ...] = ()) -> GetClusterStatusReply:
    """(GPUs, free GPUs[, free CPUs]) of nodes 0a, 0b, ..; kinds: a letter each."""
    reply = GetClusterStatusReply()
    for number, (total, free, *cpus) in enumerate(nodes):
        node = reply.cluster_resource_state.node_states.add()
        node.node_id, node.status = bytes([10 + number]), states[number] if states else NodeStatus.RUNNING
        node.total_resources["GPU"], node.available_resources["GPU"] = total, free
        node.available_resources["CPU"] = cpus[0] if cpus else 64.0
        if kinds:
            node.labels["ray.io/accelerator-type"] = kinds[number]
    return reply


@pytest.mark.parametrize(
    ("told", "workers", "expected"),
    [
        (status((8, 4), (8, 4), (8, 8)), 8, "0c"),  # not the halves of two
        (status((8, 8), (8, 7), (8, 8)), 16, "0a 0c"),
        (status((8, 8), (8, 7)), 16, ""),  # not enough: as Ray packs
        (status((8, 8), (8, 8)), 12, ""),  # would not fill them
        (status((8, 8)), 4, ""),
        (status((4, 4), (4, 4), (8, 8)), 8, "0c"),  # as few as can be
        (status((4, 4), (4, 4), (8, 5)), 8, "0a 0b"),
        (status((1, 1), (1, 1)), 2, ""),  # a worker a node: nothing to gain
        (status((8, 8, 15.0)), 8, ""),  # 16 CPUs are wanted
        (status((8, 8), (8, 8), (8, 8), kinds="HAH"), 16, "0a 0c"),  # of one kind
        (status((8, 8), (8, 8), kinds="HA"), 16, ""),
        (status((8, 8), states=(NodeStatus.DEAD,)), 8, ""),
        (status((8, 8), states=(NodeStatus.DRAINING,)), 8, ""),
        (status((8, 8), states=(NodeStatus.IDLE,)), 8, "0a"),
        (status((0, 0)), 2, ""),
    ],
)
def test_whole_nodes(told: GetClusterStatusReply, workers: int, expected: str) -> None:
    found = whole_nodes(told, ONE, workers, ())
    assert " ".join(sorted(set(found))) == expected
    assert len(found) == (workers if expected else 0)
    assert found == sorted(found), "neighbours in rank lie beside each other"


def test_nodes_that_are_left_out_and_workers_of_several_gpus() -> None:
    assert whole_nodes(status((8, 8), (8, 8)), ONE, 8, ["0a"]) == ["0b"] * 8
    assert whole_nodes(status((8, 8)), {"GPU": 4.0}, 2, ()) == ["0a", "0a"]
    assert whole_nodes(status((8, 8)), {"GPU": 3.0}, 2, ()) == []


def test_who_needs_no_gpu_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> GetClusterStatusReply:
        raise AssertionError

    monkeypatch.setattr(module, "cluster_status", ask)
    assert node_selectors({"CPU": 1.0}, 8) == []
    assert node_selectors(ONE, 1) == []
    monkeypatch.setattr(module, "cluster_status", lambda: None)
    assert node_selectors(ONE, 8) == [], "a driver outside of the cluster"
    monkeypatch.setattr(module, "cluster_status", lambda: status((2, 2)))
    assert node_selectors(ONE, 2) == [{"ray.io/node-id": "0a"}] * 2
