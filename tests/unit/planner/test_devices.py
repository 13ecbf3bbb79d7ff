"""Clusters as they are written, and as Ray tells of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raysft.errors import ClusterError
from raysft.planner.devices import cluster_of, parse_cluster
from raysft.recipe.facts import NodeFacts


@pytest.mark.parametrize(
    ("text", "name", "count", "per_node"),
    [
        ("8xH100-80G", "H100-80G", 8, 8),
        ("8xH100-80G,8xH100-80G", "H100-80G", 16, 8),
        ("2x8xh100", "H100-80G", 16, 8),
        ("8xH100-80G, 4xA100-40G", "A100-40G", 8, 4),  # the weakest, as many on each node
        ("2xCPU-16G", "CPU-16G", 2, 2),
    ],
)
def test_a_cluster(text: str, name: str, count: int, per_node: int) -> None:
    found = parse_cluster(text)
    assert (found.device.name, found.num_devices, found.devices_per_node) == (name, count, per_node)


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "nothing"), ("8", "8xH100"), ("8xH100-80G,", "nothing"), ("0xH100", "8xH100"), ("8xH100-8G", "H100-80G")],
)
def test_a_cluster_that_cannot_be_read(text: str, word: str) -> None:
    with pytest.raises(ClusterError) as caught:
        parse_cluster(text)
    assert word in str(caught.value)
    assert caught.value.fix


def test_what_ray_tells_of_a_cluster() -> None:
    nodes = tuple(NodeFacts(64, gpus, accelerator=kind) for gpus, kind in ((8, "A100"), (8, "H100"), (0, None)))
    assert cluster_of(nodes, 1) == replace(parse_cluster("2x8xA100-80G"))
    assert cluster_of(nodes, 0) is None
    assert cluster_of((*nodes, NodeFacts(1, 1)), 1) is None
