"""`raysft plan`, and what a run asks of the planner before it starts: the layout of `auto`, and whether it fits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from raysft.data.text.tokenizer import recipe_tokenizer
from raysft.errors import ClusterError, RecipeError, UserError
from raysft.model.backend import with_backend
from raysft.model.facts import read_facts
from raysft.model.load import rows_for
from raysft.model.shape import read_shape
from raysft.planner import layout, report, tasks
from raysft.planner.devices import GIB, Cluster, cluster_of, cpu, parse_cluster
from raysft.planner.host import check_host_memory, checkpoint_bytes
from raysft.recipe.change import change
from raysft.recipe.checks import check_recipe
from raysft.recipe.facts import ClusterFacts, ModelFacts, ModelShape
from raysft.recipe.layout_checks import check_layout
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.schema import Recipe
from raysft.run.rundir import run_location
from raysft.run.storage_watch import check_disk


@dataclass(frozen=True)
class RankedLayouts:
    """Every layout of a recipe on a cluster, the best first."""

    recipe: Recipe
    """As it was weighed: a worker for each device, fresh weights with a vocabulary."""
    shape: ModelShape
    cluster: Cluster
    ranked: tuple[layout.LayoutForecast, ...]
    """Those that fit, by predicted time; then the others, those that lack least memory first."""
    own: int | None
    """Place of the recipe's layout among them; None: it is refused here, or `parallel.auto` left it open."""
    refused: str
    """Why the recipe's own layout cannot run here; empty: it can."""
    advice: tuple[str, ...]
    """What would fit, in lines, where nothing does."""

    def lines(self) -> list[str]:
        """For a terminal: at most 120 columns."""
        told = report.describe(self.recipe, self.shape, self.cluster, list(self.ranked), self.own)
        return [*told, *([self.refused] if self.refused else []), *self.advice]

    def to_json(self) -> dict[str, Any]:
        """All numbers, in bytes and seconds."""
        return report.as_json(self.cluster, list(self.ranked), self.own)


def plan(recipe: Recipe, cluster: str | None) -> RankedLayouts:
    """Rank every layout of a recipe on a cluster (`8xH100-80G,...`; default: CPU workers on this machine).

    Raises RecipeError, ModelError, ClusterError.
    """
    recipe = with_backend(with_vocabulary(with_absolute_paths(recipe)))
    check_recipe(recipe)
    where = parse_cluster(cluster) if cluster else _this_machine(recipe)
    wanted = recipe
    workers = {"cluster.workers": where.num_devices, "cluster.gpus_per_worker": int(where.device.is_gpu)}
    recipe = change(recipe, workers)
    model, shape = read_facts(recipe), read_shape(recipe)
    ranked = layout.rank(recipe, model, shape, where)
    refused = ""
    if not recipe.parallel.auto:
        try:
            check_layout(recipe, model)
        except RecipeError as error:
            parallel = recipe.parallel
            replica = change(recipe, {"cluster.workers": parallel.tensor * parallel.pipeline * parallel.sequence})
            check_layout(replica, model)  # raises where no number of devices would do,
            check_layout(wanted, model)  # or the recipe's own would not
            refused = f"recipe     its own layout cannot run here: {error.what} ({error.got})"
    if not ranked:
        raise _no_layout(recipe, where)
    own = None if recipe.parallel.auto or refused else layout.place(recipe, ranked)
    advice: list[str] = []
    if not any(candidate.fits for candidate in ranked):
        offloaded = layout.offloaded(recipe, model, shape, where)
        advice = report.memory_advice(recipe, shape, where, offloaded, layout.enough(recipe, model, shape, where))
    return RankedLayouts(recipe, shape, where, tuple(ranked), own, refused, tuple(advice))


def _no_layout(recipe: Recipe, where: Cluster) -> ClusterError:
    return ClusterError(
        f"no layout of {where.num_devices} workers divides this run",
        got=f"train.rows_per_step: {recipe.train.rows_per_step}, {where.num_devices} devices",
        expected="replicas of at least a row a step each, or a model that can be split over the others",
        fix=f"set train.rows_per_step to {where.num_devices} or more, or plan for fewer devices",
    )


def matrix() -> list[str]:
    """The compatibility table."""
    return report.matrix_lines()


@dataclass(frozen=True)
class LayoutChoice:
    """What a run starts with."""

    recipe: Recipe
    """Its layout settled."""
    model: ModelFacts
    """As it will be trained."""
    lines: tuple[str, ...]
    """To be said before it starts."""
    memory: str
    """The breakdown, for whoever runs out of it."""


def choose_layout(recipe: Recipe, nodes: ClusterFacts) -> LayoutChoice:
    """Settle the layout of a run. Raises ClusterError for what cannot fit.

    `parallel.auto` is replaced by the best layout. On GPUs that Ray names, a layout that needs more memory than
    they have is refused; what is not known is not refused.
    """
    where = cluster_of(nodes.nodes, recipe.cluster.gpus_per_worker) or _cpus(recipe, nodes)
    sized, planned = with_vocabulary(recipe), with_backend(recipe)
    model, backend = read_facts(sized), planned.model.attention
    lines = []
    if recipe.model.attention == "auto" and backend != "sdpa":
        lines.append(f"attention    {backend}: a {model.model_type} model has no sdpa")
    if where is None:
        if recipe.parallel.auto:
            raise ClusterError(
                "parallel.auto needs to know the devices",
                got="GPUs whose kind Ray does not tell",
                expected="nodes with an accelerator_type that raysft knows",
                fix="set parallel by hand: `raysft plan RECIPE --cluster 8xH100-80G` ranks the layouts",
            )
        return LayoutChoice(recipe, model, tuple(lines), "memory for it: see `raysft plan RECIPE --cluster ...`")
    shape = read_shape(sized)
    if recipe.parallel.auto:
        chosen = layout.best(planned, model, shape, where)
        recipe = change(recipe, {"parallel": dict(chosen.recipe.parallel) | {"auto": False}})
        lines.append(f"auto         {chosen.words}: the fastest that fits {where.device.name}")
    else:
        check_layout(recipe, model)
        chosen = layout.weigh(planned, shape, where)
        if where.device.memory_bytes:
            layout.check_memory(chosen, model, shape, where)
    if where.device.is_gpu:
        check_host_memory(chosen.recipe, shape, where)
    used = f"{chosen.memory.total / GIB:.2f} GiB a worker: {layout.breakdown(chosen.memory)}"
    return LayoutChoice(recipe, model, (*lines, f"memory       {used} (predicted)"), f"the predicted {used}")


def check_tasks(recipe: Recipe, nodes: ClusterFacts) -> None:
    """Refuse a run that could train, but not be saved, evaluated or exported here. Raises ClusterError, StorageError.

    What is not known is not refused: GPUs that Ray does not name, a model type without a shape of its own.
    """
    sized = with_backend(with_vocabulary(recipe))
    shape = read_shape(sized)
    where = cluster_of(nodes.nodes, recipe.cluster.gpus_per_worker)
    host = max((node.memory_bytes for node in nodes.nodes), default=0)
    if shape.is_known:
        check_disk(run_location(recipe), checkpoint_bytes(sized, shape))
        tasks.check_tasks(sized, shape, where, host)


def evaluation_gpus(recipe: Recipe, nodes: ClusterFacts) -> int:
    """GPUs of a task that evaluates the model: see planner/tasks.py."""
    where = cluster_of(nodes.nodes, recipe.cluster.gpus_per_worker)
    if where is None:
        return recipe.cluster.gpus_per_worker
    sized = with_backend(with_vocabulary(recipe))
    return tasks.evaluation_gpus(sized, read_shape(sized), where)


def with_vocabulary(recipe: Recipe) -> Recipe:
    """Fresh weights without a vocab_size get the tokenizer's, as they will in training.

    One that cannot be loaded here is left out: a layout can be planned without it. A run has loaded it before.
    """
    config = recipe.model.config
    if config is None or "vocab_size" in config:
        return recipe
    try:
        size = rows_for(recipe_tokenizer(recipe))
    except UserError:
        return recipe
    return change(recipe, {"model.config.vocab_size": size})


def _this_machine(recipe: Recipe) -> Cluster:
    """CPU workers that share this machine's memory."""
    if recipe.cluster.gpus_per_worker:
        raise ClusterError(
            "which GPUs?",
            got="cluster.gpus_per_worker = 1 and no --cluster",
            expected="the devices to plan for",
            fix="for example --cluster 8xH100-80G, or --cluster 2x8xA100-80G for two nodes",
        )
    workers = recipe.cluster.workers
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return Cluster(cpu(round(memory / workers, 1)), workers, workers)


def _cpus(recipe: Recipe, nodes: ClusterFacts) -> Cluster | None:
    """CPU workers, each with the most memory that all of them can have at once on the nodes of a Ray cluster; None
    with GPUs, or where the nodes of now have no CPUs for all."""
    workers, cpus = recipe.cluster.workers, recipe.cluster.cpus_per_worker
    places = [(node.memory_bytes / tasks.RAY_SHARE, min(workers, int(node.cpus // cpus))) for node in nodes.nodes]
    if recipe.cluster.gpus_per_worker or sum(most for _, most in places) < workers:
        return None
    shares = {(memory, held) for memory, most in places for held in range(1, most + 1)}

    def held_with(share: float) -> int:
        """Workers that find so much memory each."""
        return sum(most if not share else min(most, int(memory / share + 1e-9)) for memory, most in places)

    room = max(memory / held for memory, held in shares if held_with(memory / held) >= workers)
    most_together = max(most for memory, most in places if most and memory >= room)
    return Cluster(cpu(round(room / GIB, 1)), workers, most_together)
