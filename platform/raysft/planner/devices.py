"""Accelerators and clusters: memory, peak rates, links. `parse_cluster` reads `8xH100-80G,8xH100-80G`.

Figures are of NVIDIA's data sheets (dense bf16, no sparsity; NVLink one way: half of the sheet's figure). The network
is an assumption, named in the output: 400 Gbit/s for each H100, H200 and B200, 200 for each A100, 25 for the others.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from raysft.errors import ClusterError
from raysft.recipe.facts import NodeFacts

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """What one worker computes on."""

    name: str
    memory_bytes: int
    """What a process can allocate: the sheet's size less what the driver and the CUDA context take."""
    peak_flops: float
    """bf16, dense, a second."""
    memory_rate: float
    """Bytes a second."""
    node_rate: float
    """To devices of the same node, one way, bytes a second."""
    network_rate: float
    """To other nodes, for each device, bytes a second."""

    @property
    def is_gpu(self) -> bool:
        """Or a CPU."""
        return not self.name.startswith("CPU")


@dataclass(frozen=True)
class Cluster:
    """Devices, the same number on each node. Of different devices the weakest counts."""

    device: Device
    num_devices: int
    devices_per_node: int


def _gpu(name: str, gib: float, tflops: float, rates: tuple[float, float, float]) -> Device:
    """rates: memory, node, network in GB/s."""
    memory, node, network = (rate * 1e9 for rate in rates)
    return Device(name, int(gib * GIB), tflops * 1e12, memory, node, network)


_DEVICES = (
    _gpu("H100-80G", 79.1, 989.4, (3350, 450, 50)),
    _gpu("H200-141G", 139.8, 989.4, (4800, 450, 50)),
    _gpu("B200-180G", 178.0, 2250, (7700, 900, 50)),
    _gpu("A100-80G", 79.1, 312, (2039, 300, 25)),
    _gpu("A100-40G", 39.4, 312, (1555, 300, 25)),
    _gpu("L40S-48G", 44.4, 362, (864, 32, 3.1)),
    _gpu("A10G-24G", 22.0, 70, (600, 32, 3.1)),
    _gpu("L4-24G", 22.0, 121, (300, 32, 3.1)),
    _gpu("RTX4090-24G", 23.5, 165, (1008, 32, 3.1)),
)
"""name; GiB that torch reports; TFLOP/s; GB/s of memory, to the node's other GPUs, to other nodes."""


def cpu(memory_gib: float) -> Device:
    """A worker on CPUs. Its rates are an assumption for ranking only: 50 GFLOP/s, 10 GB/s."""
    return Device(f"CPU-{memory_gib:g}G", int(memory_gib * GIB), 50e9, 10e9, 5e9, 1.25e9)


def find_device(name: str, *, largest: bool = False) -> Device:
    """`H100-80G`; `A100`, the smallest (or largest) of that name; `CPU-16G`. Raises ClusterError."""
    wanted = name.upper()
    if found := re.fullmatch(r"CPU-(\d+)G", wanted):
        return cpu(int(found[1]))
    matches = [d for d in _DEVICES if d.name == wanted or d.name.split("-")[0] == wanted]
    if matches:
        return (max if largest else min)(matches, key=lambda device: device.memory_bytes)
    names = [device.name for device in _DEVICES]
    close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.4)
    raise ClusterError(
        f"raysft does not know the device {name!r}",
        got=name,
        expected=f"one of {', '.join(names)}, or CPU-<GiB>G",
        fix=f"did you mean {close[0]}?" if close else "name the nearest of these",
    )


def parse_cluster(text: str) -> Cluster:
    """Nodes, comma-separated: `8xH100-80G,8xH100-80G` or `2x8xH100-80G`. Raises ClusterError."""
    nodes: list[tuple[int, Device]] = []
    for part in text.split(","):
        found = re.fullmatch(r"(?:(\d+)x)?(\d+)x([A-Za-z][\w-]*)", part.strip())
        if found is None or not int(found[2]) or not int(found[1] or 1):
            raise ClusterError(
                f"cannot read the cluster {text!r}",
                got=part.strip() or "nothing",
                expected="a node as COUNTxDEVICE, or NODESxCOUNTxDEVICE, separated by commas",
                fix="for example --cluster 8xH100-80G, or --cluster 2x8xA100-80G",
            )
        nodes += [(int(found[2]), find_device(found[3]))] * int(found[1] or 1)
    device = min((device for _, device in nodes), key=lambda d: (d.memory_bytes, d.peak_flops))
    per_node = min(count for count, _ in nodes)
    return Cluster(device, per_node * len(nodes), per_node)


def cluster_of(nodes: tuple[NodeFacts, ...], gpus_per_worker: int) -> Cluster | None:
    """What a Ray cluster has, as far as Ray tells its kind. None: no GPUs asked for, or of a kind unknown."""
    with_gpus = [node for node in nodes if node.gpus >= 1 and node.accelerator is not None]
    if not gpus_per_worker or not with_gpus or len(with_gpus) < sum(node.gpus >= 1 for node in nodes):
        return None
    try:
        devices = [find_device(node.accelerator or "", largest=True) for node in with_gpus]
    except ClusterError:
        return None
    device = min(devices, key=lambda d: (d.memory_bytes, d.peak_flops))
    per_node = int(min(node.gpus for node in with_gpus))
    return Cluster(device, int(sum(node.gpus for node in with_gpus)), per_node)
