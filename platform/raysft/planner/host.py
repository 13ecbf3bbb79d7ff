"""What a run needs beside its devices: host memory of a node, bytes of a checkpoint and what of it a worker reads.

A worker keeps a copy of its share of each save in host memory (decision 038), pinned on GPU machines; files that it
checks before it goes on from them take the same room before. `parallel.offload` moves optimizer state there. Where a
model must be loaded whole, each worker of a node makes it in fp32 in host memory first (decision 034).
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
from raysft.recipe.traits import method_of

STORAGE_RATE = 1e9
"""Bytes a second from each node to shared storage: an assumption, for seconds in a plan."""


@dataclass(frozen=True)
class HostMemory:
    """Bytes of one worker outside of its GPU, besides Python's own (about 1 GiB)."""

    saved: int
    """Its share of the newest save."""
    offloaded: int
    """Optimizer state, and under ZeRO 3 parameters, with parallel.offload: cpu."""
    loading: int
    """The whole model in fp32 at the start; 0 where each worker reads what it keeps."""

    @property
    def total(self) -> int:
        """At the peak: a resume has its share of the files while it makes the model, a save while state lies here."""
        return self.saved + max(self.loading, self.offloaded)


def host_memory(recipe: Recipe, shape: ModelShape) -> HostMemory:
    """What the fullest worker of a run on GPUs needs."""
    plain = stages(change(recipe, {"parallel.offload": "none"}), shape, is_gpu=True)
    on_device = stages(recipe, shape, is_gpu=True)
    return max(
        (
            HostMemory(
                saved=saved_share(recipe, shape, whole.stage),
                offloaded=whole.states.total - left.states.total,
                loading=FLOAT32 * shape.num_parameters if loads_whole(recipe) else 0,
            )
            for whole, left in zip(plain, on_device, strict=True)
        ),
        key=lambda host: host.total,
    )


def loads_whole(recipe: Recipe) -> bool:
    """Does every worker make the whole model before it keeps its part, as far as the recipe tells?"""
    return bool(method_of(recipe).begins_with(recipe.method))


def loaded_at_once(recipe: Recipe, shape: ModelShape, *, is_gpu: bool) -> int:
    """What a worker's device holds of a model that it loads whole, in fp32; 0: it reads what it keeps.

    A pipeline cuts such a model before its stages go to their GPUs, unless the attention needs one.
    """
    parallel, attention = recipe.parallel, recipe.model.attention
    is_cut_before = is_gpu and parallel.pipeline > 1 and attention != "flash_attention_2"
    return FLOAT32 * shape.num_parameters if loads_whole(recipe) and not is_cut_before else 0


def can_load(recipe: Recipe, shape: ModelShape, cluster: Cluster) -> bool:
    """Does a device hold the model while it is loaded?"""
    device = cluster.device
    return loaded_at_once(recipe, shape, is_gpu=device.is_gpu) <= device.memory_bytes


def check_loading(recipe: Recipe, shape: ModelShape, cluster: Cluster) -> None:
    """Refuse a model that is loaded whole where no device holds it, however small each worker's part is. Raises
    ClusterError."""
    device = cluster.device
    size = loaded_at_once(recipe, shape, is_gpu=device.is_gpu)
    if size <= device.memory_bytes:
        return
    method = method_of(recipe)
    raise ClusterError(
        "a worker cannot load this model: it needs all of it before it keeps its part",
        got=f"{gib(size)} in fp32 on each device: {method.title} begins with {method.begins_with(recipe.method)}",
        expected=f"at most the {gib(device.memory_bytes)} of a {device.name}",
        fix="use larger devices, or method.kind: lora on a base that is not rounded: each worker then has its part",
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
            "whole models at the start": host.loading,
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
    if host.loading > max(host.saved, host.offloaded):
        what, fix = (
            "the whole model in fp32 in every worker at the start",
            "use a method that reads or makes weights by shares (method.kind: lora, full)",
        )
    elif host.offloaded > host.saved:
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
