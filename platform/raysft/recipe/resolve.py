"""All batch and parallel arithmetic, once, pure; what a recipe contradicts by itself is in checks.py.

resolve(recipe, model, cluster) -> ResolvedRun   before any data is read
schedule(run, data)             -> Schedule      once the token store is known
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from raysft.errors import ClusterError, RecipeError
from raysft.recipe.change import change
from raysft.recipe.checks import check_recipe, check_warmup
from raysft.recipe.compatibility import cell_of, verdict
from raysft.recipe.facts import ClusterFacts, DataFacts, ModelFacts, NodeFacts
from raysft.recipe.flops import attention_passes, flops_per_weight
from raysft.recipe.layout import Layout
from raysft.recipe.layout_checks import check_layout
from raysft.recipe.model_checks import check_schedule
from raysft.recipe.overlap import overlap_lines
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.optimizer import OptimizerSection
from raysft.recipe.traits import virtual_tokens


@dataclass(frozen=True)
class ResolvedRun:
    """A recipe with everything derived. Nobody downstream derives these again."""

    recipe: Recipe
    num_workers: int
    num_replicas: int
    """Data-parallel replicas: workers / (tensor x pipeline x sequence)."""
    sync: Literal["step", "micro_batch"]
    """When replicas wait for each other: see data/feed/replica_balance.py."""
    token_flops: float
    """Forward and backward of one token, without attention."""
    square_flops: float
    """Forward and backward of attention, per squared segment length."""

    @property
    def rows_per_micro_step(self) -> int:
        """Rows that all replicas hold in one forward pass."""
        return self.num_replicas * self.recipe.train.micro_batch_rows

    @property
    def micro_steps(self) -> int:
        """Forward-backward passes of a full optimizer step."""
        return math.ceil(self.recipe.train.rows_per_step / self.rows_per_micro_step)

    @property
    def layout(self) -> Layout:
        """The grid of workers."""
        parallel = self.recipe.parallel
        return Layout(parallel.pipeline, self.num_replicas, parallel.sequence, parallel.tensor)

    def describe(self) -> list[str]:
        """The batch arithmetic in lines, for printing before anything starts."""
        train, parallel, data = self.recipe.train, self.recipe.parallel, self.recipe.data
        rows = f"{train.rows_per_step} rows x {data.max_tokens:,} tokens"
        split = f"{self.num_replicas} replicas x {train.micro_batch_rows} rows x {self.micro_steps} micro-steps"
        spare = self.rows_per_micro_step * self.micro_steps - train.rows_per_step
        cell = cell_of(self.recipe)
        untested = f"untested     no test trains {cell.words}: compare its first losses with one worker"
        return [
            f"workers      {self.num_workers} = {self.num_replicas} replicas x tensor {parallel.tensor} "
            f"x pipeline {parallel.pipeline} x sequence {parallel.sequence}, ZeRO {parallel.zero}, "
            f"{train.precision}",
            f"global step  {rows} = at most {train.rows_per_step * data.max_tokens:,} tokens",
            f"split        {split}" + (f" ({spare} of them empty)" if spare else ""),
            *overlap_lines(self.recipe),
            *([untested] if verdict(cell).status == "untested" else []),
        ]


@dataclass(frozen=True)
class Schedule:
    """Steps of the run and the learning rate of each."""

    total_steps: int
    steps_per_epoch: int | None
    """None: streamed."""
    optimizer: OptimizerSection

    def learning_rate(self, step: int) -> float:
        """Learning rate of 0-based optimizer step `step`: linear warm-up, then the named shape."""
        peak, warmup = self.optimizer.learning_rate, self.optimizer.warmup_steps
        if step < warmup:
            return peak * (step + 1) / warmup
        if self.optimizer.schedule == "constant":
            return peak
        progress = min(1.0, (step - warmup) / max(1, self.total_steps - warmup))
        left = 1 - progress if self.optimizer.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        floor = self.optimizer.min_lr_ratio
        return peak * (floor + (1 - floor) * left)

    def describe(self) -> list[str]:
        """Length of the run in one line."""
        if self.steps_per_epoch is None:
            return [f"run          {self.total_steps} steps of a stream"]
        epochs = self.total_steps / self.steps_per_epoch
        return [f"run          {self.total_steps} steps = {epochs:.2f} epochs of {self.steps_per_epoch} steps"]


def resolve(recipe: Recipe, model: ModelFacts, cluster: ClusterFacts | None) -> ResolvedRun:
    """Check the recipe as a whole and derive its numbers. `cluster=None` leaves the cluster unchecked.

    Raises RecipeError, ClusterError.
    """
    check_recipe(recipe)
    check_layout(recipe, model)
    _check_length(recipe, model)
    parallel = recipe.parallel
    num_replicas = recipe.cluster.workers // (parallel.tensor * parallel.pipeline * parallel.sequence)
    if cluster is not None:
        check_fits(recipe, cluster.nodes)
    return ResolvedRun(
        recipe=recipe,
        num_workers=recipe.cluster.workers,
        num_replicas=num_replicas,
        sync="micro_batch" if parallel.zero >= 2 or parallel.pipeline > 1 else "step",
        token_flops=_token_flops(recipe, model),
        square_flops=attention_passes(recipe) * _square_flops(model),
    )


def with_micro_batch_rows(run: ResolvedRun, rows: int) -> ResolvedRun:
    """The same run with other forward passes. The global step stays."""
    return replace(run, recipe=change(run.recipe, {"train.micro_batch_rows": rows}))


def _token_flops(recipe: Recipe, model: ModelFacts) -> float:
    """Forward and backward of one token, without attention."""
    return flops_per_weight(recipe, model.num_layers) * model.num_parameters


def _square_flops(model: ModelFacts) -> float:
    """PaLM, appendix B: 12 x layers x heads x head size x length per token; half of it under a causal mask."""
    return 6.0 * model.num_layers * model.attention_size


def schedule(run: ResolvedRun, data: DataFacts) -> Schedule:
    """The run's length from the size of its data. The last step of an epoch may be short."""
    train, optimizer = run.recipe.train, run.recipe.optimizer
    steps_per_epoch = None if data.num_rows is None else math.ceil(data.num_rows / train.rows_per_step)
    total_steps = train.max_steps or train.epochs * (steps_per_epoch or 0)
    check_warmup(run.recipe, total_steps)
    check_schedule(run.recipe, total_steps)
    return Schedule(total_steps=total_steps, steps_per_epoch=steps_per_epoch, optimizer=optimizer)


def check_fits(recipe: Recipe, nodes: Sequence[NodeFacts]) -> None:
    """Can these nodes ever hold all workers at once? Raises ClusterError instead of waiting for ever."""
    want = recipe.cluster
    room = sum(_workers_on(node, want.cpus_per_worker, want.gpus_per_worker) for node in nodes)
    if room >= want.workers:
        return
    have = ", ".join(f"{node.cpus:g} CPUs + {node.gpus:g} GPUs" for node in nodes) or "no node"
    raise ClusterError(
        "the cluster can never hold this run",
        got=f"{len(nodes)} node(s) with {have}: room for {room} worker(s)",
        expected=f"{want.workers} workers x ({want.cpus_per_worker} CPUs + {want.gpus_per_worker} GPUs)",
        fix="lower cluster.workers or cluster.cpus_per_worker, or add nodes",
    )


def fitting_workers(recipe: Recipe, nodes: Sequence[NodeFacts]) -> int | None:
    """Workers of the most whole replicas that these nodes hold, min_workers to workers of the cluster, or None."""
    want, parallel = recipe.cluster, recipe.parallel
    split = parallel.tensor * parallel.pipeline * parallel.sequence
    room = sum(_workers_on(node, want.cpus_per_worker, want.gpus_per_worker) for node in nodes)
    most = min(room, want.workers) // split * split
    return most if most >= max(1, want.min_workers or want.workers) else None


def with_workers(recipe: Recipe, workers: int) -> Recipe:
    """The same recipe on another number of workers. The global step stays."""
    return change(recipe, {"cluster.workers": workers})


def _workers_on(node: NodeFacts, cpus: int, gpus: int) -> int:
    by_gpu = math.floor(node.gpus / gpus) if gpus else math.inf
    return int(min(math.floor(node.cpus / cpus), by_gpu))


def _check_length(recipe: Recipe, model: ModelFacts) -> None:
    extra = virtual_tokens(recipe)
    length = recipe.data.max_tokens + extra
    told = f"data.max_tokens = {recipe.data.max_tokens}" + (f", method.virtual_tokens = {extra}" if extra else "")
    if model.max_tokens is not None and length > model.max_tokens:
        raise RecipeError(
            "rows are longer than the model's positions",
            got=told,
            expected=f"at most {model.max_tokens} ({model.model_type})" + (" together" if extra else ""),
            fix=_shorter(recipe, model.max_tokens),
        )
    if model.same_factors_up_to is not None and length > model.same_factors_up_to:
        raise RecipeError(
            "this model's rotary factors would depend on what else is in a pass",
            got=f"{told}; this {model.model_type} rotates a whole pass by "
            f"other factors when any sample in it is longer than {model.same_factors_up_to} (longrope, dynamic)",
            expected=f"at most {model.same_factors_up_to}: one sample, one loss, whatever it is packed with",
            fix=_shorter(recipe, model.same_factors_up_to),
        )


def _shorter(recipe: Recipe, positions: int) -> str:
    room = positions - virtual_tokens(recipe)
    return (
        f"set data.max_tokens to {room} or less" if room > 0 else f"set method.virtual_tokens far below {positions}"
    )
