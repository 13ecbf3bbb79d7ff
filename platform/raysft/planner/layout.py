"""Every layout that a cluster could run, what it needs and how fast it would be; the best of them.

Only layouts that the matrix allows. Ranked: those that fit before those that do not, then by predicted time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

from raysft.errors import ClusterError
from raysft.planner.devices import GIB, Cluster
from raysft.planner.host import check_host_memory, fits_host_memory
from raysft.planner.memory import bytes_basis, predict
from raysft.planner.rank_memory import RankMemory
from raysft.planner.speed import StepTime, step_time
from raysft.recipe.change import change
from raysft.recipe.compatibility import Status, cell_of, verdict
from raysft.recipe.facts import ModelFacts, ModelShape
from raysft.recipe.layout_checks import changes, layout_problems, with_layout
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of

HEADROOM = 0.05
"""Share of the memory left free: fragments, kernels' workspaces, the largest temporary of backward."""


@dataclass(frozen=True)
class LayoutForecast:
    """One layout of a recipe on a cluster."""

    recipe: Recipe
    memory: RankMemory
    time: StepTime
    status: Status
    fits: bool

    @property
    def words(self) -> str:
        """`ZeRO 1, tensor 2 x pipeline 2 x replicas 2`: the axes that are larger than 1."""
        parallel = self.recipe.parallel
        axes = {"tensor": parallel.tensor, "pipeline": parallel.pipeline, "sequence": parallel.sequence}
        told = [f"{name} {size}" for name, size in axes.items() if size > 1]
        told.append(f"replicas {replicas(self.recipe)}")
        more = ", gradient checkpointing" if self.recipe.train.gradient_checkpointing else ""
        return f"ZeRO {parallel.zero}, {' x '.join(told)}{more}"


def replicas(recipe: Recipe) -> int:
    """Data-parallel replicas."""
    parallel = recipe.parallel
    return recipe.cluster.workers // (parallel.tensor * parallel.pipeline * parallel.sequence)


def weigh(recipe: Recipe, shape: ModelShape, cluster: Cluster) -> LayoutForecast:
    """Memory and time of a recipe in its own layout."""
    memory = predict(recipe, shape, is_gpu=cluster.device.is_gpu)
    return LayoutForecast(
        recipe=recipe,
        memory=memory,
        time=step_time(recipe, shape, cluster),
        status=verdict(cell_of(recipe)).status,
        fits=memory.total <= cluster.device.memory_bytes * (1 - HEADROOM)
        and fits_host_memory(recipe, shape, cluster),
    )


def rank(recipe: Recipe, model: ModelFacts, shape: ModelShape, cluster: Cluster) -> list[LayoutForecast]:
    """All layouts of this many workers, the best first. Those that checkpoint activations only where it is needed."""
    workers, found = recipe.cluster.workers, []
    sizes = [n for n in range(1, workers + 1) if workers % n == 0]
    for tensor, pipeline, sequence, zero in product(sizes, sizes, sizes, range(4)):
        if workers % (tensor * pipeline * sequence) or tensor > cluster.devices_per_node:
            continue
        wanted = with_layout(recipe, zero, (tensor, pipeline, sequence), workers, recipe.train.rows_per_step)
        if next(layout_problems(wanted, model), None) is not None:
            continue
        if _is_repeated(wanted, zero) and wanted.parallel != recipe.parallel:
            continue
        candidate = weigh(wanted, shape, cluster)
        found.append(candidate)
        if not candidate.fits and not recipe.train.gradient_checkpointing:
            found.append(weigh(_checkpointed(wanted), shape, cluster))
    return sorted(found, key=_order)


def best(recipe: Recipe, model: ModelFacts, shape: ModelShape, cluster: Cluster) -> LayoutForecast:
    """The fastest layout that fits, those that a test trains first. Changes `parallel` only. Raises ClusterError."""
    candidates = rank(recipe, model, shape, cluster)
    own = recipe.train.gradient_checkpointing
    fitting = [c for c in candidates if c.fits and c.recipe.train.gradient_checkpointing == own]
    if not fitting:
        least = min(candidates, key=lambda c: c.memory.total)
        if least.memory.total <= cluster.device.memory_bytes * (1 - HEADROOM):
            check_host_memory(least.recipe, shape, cluster)
        raise does_not_fit(least, candidates, cluster)
    return min(fitting, key=lambda candidate: candidate.status != "tested")  # min keeps the order of equals


def check_memory(own: LayoutForecast, model: ModelFacts, shape: ModelShape, cluster: Cluster) -> None:
    """Refuse a layout whose steps need more than a device has, with the breakdown. Raises ClusterError."""
    if own.memory.total > cluster.device.memory_bytes:
        raise does_not_fit(own, rank(own.recipe, model, shape, cluster), cluster)


def offloaded(recipe: Recipe, model: ModelFacts, shape: ModelShape, cluster: Cluster) -> LayoutForecast | None:
    """The fastest layout that fits with the optimizer's state in host memory; None: none."""
    if not cluster.device.is_gpu or recipe.parallel.offload != "none":
        return None
    found = rank(change(recipe, {"parallel.offload": "cpu"}), model, shape, cluster)
    fitting = [c for c in found if c.fits and c.recipe.parallel.zero > 0 and c.recipe.parallel.pipeline == 1]
    return fitting[0] if fitting else None


def less_per_pass(recipe: Recipe) -> str:
    """What of a forward pass can be made smaller, in words."""
    rows = "smaller train.micro_batch_rows or " if recipe.train.micro_batch_rows > 1 else "smaller "
    return f"{rows}data.max_tokens"


def enough(
    recipe: Recipe, model: ModelFacts, shape: ModelShape, cluster: Cluster
) -> tuple[Cluster, LayoutForecast] | None:
    """The smallest doubling of a cluster on which the recipe fits, and the best layout there; None: not up to 64."""
    count = cluster.num_devices
    for _ in range(6):
        count *= 2
        larger = replace(cluster, num_devices=count, devices_per_node=min(count, max(8, cluster.devices_per_node)))
        rows = max(recipe.train.rows_per_step, count)
        wider = with_layout(recipe, recipe.parallel.zero, (1, 1, 1), count, rows)
        if fitting := [candidate for candidate in rank(wider, model, shape, larger) if candidate.fits]:
            return larger, fitting[0]
    return None


def place(recipe: Recipe, ranked: list[LayoutForecast]) -> int | None:
    """Where a recipe's own layout stands among the ranked."""
    for number, candidate in enumerate(ranked):
        if candidate.recipe.parallel == recipe.parallel and candidate.recipe.train == recipe.train:
            return number
    return None


def does_not_fit(own: LayoutForecast, candidates: list[LayoutForecast], cluster: Cluster) -> ClusterError:
    """What is too large, by class, and the fastest layout that would fit."""
    fitting = [candidate for candidate in candidates if candidate.fits]
    fitting.sort(key=lambda candidate: candidate.status != "tested")
    if fitting:
        fix = f"{_all_changes(own.recipe, fitting[0].recipe)} ({fitting[0].memory.total / GIB:.1f} GiB a worker)"
    else:
        method = "method.kind: lora, " if method_of(own.recipe).trains_base else ""
        offload = "" if own.recipe.parallel.offload == "cpu" else "parallel.offload: cpu, "
        fix = f"use more or larger devices, {offload}{method}{less_per_pass(own.recipe)}"
    room = cluster.device.memory_bytes * (1 - HEADROOM)
    return ClusterError(
        "a worker needs more memory than its device has",
        got=f"{own.memory.total / GIB:.1f} GiB with {own.words}: {breakdown(own.memory)} "
        f"[{bytes_basis(own.recipe).name}]",
        expected=f"at most {room / GIB:.1f} GiB of a {cluster.device.name}",
        fix=fix,
    )


def breakdown(memory: RankMemory) -> str:
    """`parameters 15.0, gradients 3.7, ... GiB`: the parts that are at least a hundredth."""
    unit, name = (GIB, "GiB") if memory.total >= GIB else (2**20, "MiB")
    parts = [f"{part} {size / unit:.1f}" for part, size in memory.classes.items() if size * 100 >= memory.total]
    return f"{', '.join(parts)} {name}"


def _all_changes(old: Recipe, new: Recipe) -> str:
    told = changes(old, new) if old.parallel != new.parallel else "set"
    if old.train.gradient_checkpointing != new.train.gradient_checkpointing:
        told += (" and" if told != "set" else "") + " train.gradient_checkpointing to true"
    return told


def _is_repeated(recipe: Recipe, zero: int) -> bool:
    """bf16 with ZeRO 0 runs as ZeRO 1, and one rank has nothing to partition weights over."""
    parallel = recipe.parallel
    ranks = recipe.cluster.workers // (parallel.tensor * parallel.pipeline)
    return (recipe.train.precision == "bf16" and zero == 0) or (zero == 3 and ranks == 1)


def _checkpointed(recipe: Recipe) -> Recipe:
    return change(recipe, {"train.gradient_checkpointing": True})


def _order(candidate: LayoutForecast) -> tuple[bool, float, float]:
    """The fastest that fit, of equally fast ones the one that needs less memory; then the nearest that do not."""
    if not candidate.fits:
        return True, candidate.memory.total, candidate.time.total_s
    return False, round(math.log(candidate.time.total_s), 2), candidate.memory.total
