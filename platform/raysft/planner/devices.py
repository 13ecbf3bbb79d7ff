"""Devices and clusters of them. `parse_cluster` reads `8xH100-80G,8xH100-80G`. Figures of GPUs: recipe/gpus.py."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from raysft.errors import ClusterError
from raysft.recipe.facts import NodeFacts
from raysft.recipe.gpus import GPUS, Gpu, named

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """What one worker computes on."""

    name: str
    memory_bytes: int
    """What a process can allocate: the sheet's size less what the driver and the CUDA context take."""
    peak_flops: float
    """bf16, dense, a second."""
    fp32_flops: float
    """A second: no TF32."""
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

    def peak_in(self, precision: str) -> float:
        """FLOP/s in `bf16` or `fp32`."""
        return self.peak_flops if precision == "bf16" else self.fp32_flops


@dataclass(frozen=True)
class Cluster:
    """Devices, the same number on each node. Of different devices the weakest counts."""

    device: Device
    num_devices: int
    devices_per_node: int
    host_bytes: int | None = None
    """Host memory of a node, beside GPUs; None: not known."""


def _device(gpu: Gpu) -> Device:
    rates = (gpu.memory_gb_s, gpu.node_gb_s, gpu.network_gb_s)
    peaks = (gpu.bf16_tflops * 1e12, gpu.fp32_tflops * 1e12)
    return Device(gpu.name, int(gpu.memory_gib * GIB), *peaks, *(rate * 1e9 for rate in rates))


def cpu(memory_gib: float) -> Device:
    """A worker on CPUs. Its rates are an assumption for ranking only: 50 GFLOP/s, 10 GB/s."""
    return Device(f"CPU-{memory_gib:g}G", int(memory_gib * GIB), 50e9, 50e9, 10e9, 5e9, 1.25e9)


def find_device(name: str, *, largest: bool = False) -> Device:
    """`H100-80G`; `A100`, the smallest (or largest) of that name; `CPU-16G`. Raises ClusterError."""
    wanted = name.upper()
    if found := re.fullmatch(r"CPU-(\d+)G", wanted):
        return cpu(int(found[1]))
    matches = [_device(gpu) for gpu in named(wanted)]
    if matches:
        return (max if largest else min)(matches, key=lambda device: device.memory_bytes)
    names = [gpu.name for gpu in GPUS]
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
    host = int(min(node.memory_bytes for node in with_gpus))
    return Cluster(device, int(sum(node.gpus for node in with_gpus)), per_node, host or None)
