"""What a run needs beside its devices: host memory of a node, bytes of a checkpoint and what of it a worker reads.

A worker keeps a copy of its share of each save in host memory (decision 038), pinned on GPU machines; files that it
checks before it goes on from them take the same room before. `parallel.offload` moves optimizer state there.
Models that must be loaded whole (decision 034) are not known here; the run names them.
"""

from __future__ import annotations

from dataclasses import dataclass

from raysft.errors import ClusterError
from raysft.planner.activations import FLOAT32
from raysft.planner.devices import GIB, Cluster
from raysft.planner.memory import saved_share, stage_parameters, stages
from raysft.planner.states import state_bytes
from raysft.recipe.change import change
from raysft.recipe.facts import ModelShape
from raysft.recipe.schema import Recipe

STORAGE_RATE = 1e9
"""Bytes a second from each node to shared storage: an assumption, for seconds in a plan."""


@dataclass(frozen=True)
class HostMemory:
    """Bytes of one worker outside of its GPU, besides Python's own (about 1 GiB)."""

    saved: int
    """Its share of the newest save."""
    offloaded: int
    """Optimizer state, and under ZeRO 3 parameters, with parallel.offload: cpu."""

    @property
    def total(self) -> int:
        """At the peak: a resume has its share of the files, and a save its copy, while state lies here."""
        return self.saved + self.offloaded


def host_memory(recipe: Recipe, shape: ModelShape) -> HostMemory:
    """What the fullest worker of a run on GPUs needs."""
    plain = stages(change(recipe, {"parallel.offload": "none"}), shape, is_gpu=True)
    on_device = stages(recipe, shape, is_gpu=True)
    return max(
        (
            HostMemory(
                saved=saved_share(recipe, shape, whole.stage),
                offloaded=whole.states.total - left.states.total,
            )
            for whole, left in zip(plain, on_device, strict=True)
        ),
        key=lambda host: host.total,
    )


def checkpoint_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """The size of one commit: fp32 weight and moments of each trained parameter."""
    alone = change(recipe, {"parallel.tensor": 1, "parallel.pipeline": 1, "parallel.zero": 0})
    return state_bytes(recipe.optimizer.moments) * stage_parameters(alone, shape, 0)[1]


def resumed_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """What a worker of the fullest stage reads of a commit in the layout that wrote it.

    Its ranges of weights and moments; up to ZeRO 2 the other weights besides, for its working copy is whole. fp32
    without ZeRO has all moments on every worker.
    """
    parallel, found, kept = recipe.parallel, [], state_bytes(recipe.optimizer.moments)
    ranks = recipe.cluster.workers // (parallel.tensor * parallel.pipeline)
    is_plain = parallel.zero == 0 and recipe.train.precision == "fp32"
    for stage in range(parallel.pipeline):
        trained = stage_parameters(recipe, shape, stage)[1]
        if is_plain:
            found.append(kept * trained)
        else:
            others = 0 if parallel.zero == 3 else FLOAT32 * (trained - trained // ranks)
            found.append(others + kept * trained // ranks)
    return max(found)


def save_lines(recipe: Recipe, shape: ModelShape, cluster: Cluster) -> list[str]:
    """`save` and `resume` of a plan, and `host` for GPUs."""
    size = checkpoint_bytes(recipe, shape)
    nodes = -(-cluster.num_devices // cluster.devices_per_node)
    share = max(saved_share(recipe, shape, stage) for stage in range(recipe.parallel.pipeline))
    seconds = size / nodes / STORAGE_RATE
    lines = [
        f"save      {gib(size)} a checkpoint, {gib(share)} a worker: a copy of it is written behind the training, "
        f"{seconds:,.0f} s at {STORAGE_RATE / 1e9:g} GB/s a node",
        f"resume    each worker reads {gib(resumed_bytes(recipe, shape))} of it in the same layout, others by ranges",
    ]
    if cluster.device.is_gpu:
        host = host_memory(recipe, shape)
        parts = {
            "copies of saves": host.saved,
            "optimizer state": host.offloaded,
        }
        told = ", ".join(f"{name} {gib(size * cluster.devices_per_node)}" for name, size in parts.items() if size)
        has = f" of {gib(cluster.host_bytes)}" if cluster.host_bytes else ""
        lines.append(f"host      {gib(host.total * cluster.devices_per_node)}{has} a node: {told}")
    return lines


def fits_host_memory(recipe: Recipe, shape: ModelShape, cluster: Cluster) -> bool:
    """Do the nodes hold what a run on GPUs has in host memory? True where that is not known."""
    if not cluster.host_bytes or not cluster.device.is_gpu:
        return True
    return host_memory(recipe, shape).total * _workers_of_a_node(recipe, cluster) <= cluster.host_bytes


def _workers_of_a_node(recipe: Recipe, cluster: Cluster) -> int:
    return min(cluster.devices_per_node, recipe.cluster.workers)


def check_host_memory(recipe: Recipe, shape: ModelShape, cluster: Cluster) -> None:
    """Refuse what the nodes' host memory cannot hold, where it is known. Raises ClusterError."""
    if not cluster.host_bytes or fits_host_memory(recipe, shape, cluster):
        return
    host, count = host_memory(recipe, shape), _workers_of_a_node(recipe, cluster)
    if host.offloaded > host.saved:
        what, fix = "optimizer state and copies of saves", "set parallel.offload: none, or use more nodes"
    else:
        what, fix = (
            "every worker's copy of its share of a save",
            "use more nodes, or fewer trained parameters (method.kind: lora)",
        )
    raise ClusterError(
        "a node needs more host memory than it has",
        got=f"{gib(host.total * count)} for {count} worker(s): {what}",
        expected=f"at most the {gib(cluster.host_bytes)} that Ray has for workers on a node",
        fix=fix,
    )


def gib(size: float) -> str:
    """`12.3 GiB`; small ones in MiB."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"
