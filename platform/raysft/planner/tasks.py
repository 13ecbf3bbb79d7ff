"""Predicted memory of what a run does in one task besides training: evaluation before and after, the export.

Besides the process itself: Python, torch and transformers take about 0.6 GiB of host memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raysft.errors import ClusterError
from raysft.planner.activations import FLOAT32
from raysft.planner.devices import GIB, Cluster
from raysft.planner.memory import adapted_names, adapter_parameters, chunk_targets
from raysft.recipe.change import change
from raysft.recipe.evaluation_sets import ANSWERS, evaluation_sets, evaluation_tasks, measured_by_workers
from raysft.recipe.facts import ModelShape
from raysft.recipe.objective_traits import answers_of
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of, virtual_tokens

EXPORT_FILE_BYTES = 2 * 10**9
"""The most that a file of weights of an export holds (model/export.py)."""
RAY_SHARE = 0.7
"""What Ray has of a node's memory for tasks, unless it is told otherwise; the rest is for its object store."""


@dataclass(frozen=True)
class EvaluationMemory:
    """Bytes where the model lies: on the device of the task, on CPUs in host memory."""

    weights: int
    """The model, adapters merged, in the precision of its training."""
    passing: int
    """The tensor that is being read or merged, in fp32. In host memory."""
    row: int
    """The forward pass of one row."""
    answers: int
    """Keys and values of so many answers to prompts of the greatest length."""

    @property
    def load(self) -> int:
        """While the weights come into it."""
        return self.weights + self.passing

    @property
    def total(self) -> int:
        """At the peak, if prompts are as long as they may be."""
        return max(self.load, self.weights + max(self.row, self.answers))


def evaluation_memory(recipe: Recipe, shape: ModelShape, *, is_gpu: bool) -> EvaluationMemory:
    """What the task needs that measures a model before or after training."""
    working, length = _working(recipe), recipe.data.max_tokens + virtual_tokens(recipe)
    chunk = min(chunk_targets(shape.vocab_size, is_gpu=is_gpu, working=working, is_trained=False), length)
    widest = max(linear.active * max(linear.inputs, linear.outputs) for linear in shape.linears)
    scores = shape.num_heads if recipe.model.attention == "eager" else 1  # else the mask alone
    row = length * (4 * shape.hidden_size + 3 * widest) * working + scores * length**2 * FLOAT32
    tokens = length + recipe.evaluate.max_new_tokens
    kept = 2 * shape.num_layers * shape.num_kv_heads * shape.head_size * tokens * ANSWERS * working
    prompts = max((plan.prompts for plan in evaluation_sets(recipe).values()), default=0)
    return EvaluationMemory(
        weights=working * shape.num_parameters,
        passing=export_memory(recipe, shape),
        row=row + chunk * shape.vocab_size * 2 * FLOAT32,
        answers=kept * min(prompts, ANSWERS) // ANSWERS,
    )


def export_tasks(recipe: Recipe, shape: ModelShape) -> int:
    """How many tasks share the files of weights of an export: as many as it has workers, a file each at least."""
    parts = method_of(recipe).exports
    if "merged" not in parts or not (recipe.export.merged or len(parts) == 1):
        return 1
    return max(1, min(recipe.cluster.workers, math.ceil(_working(recipe) * shape.num_parameters / EXPORT_FILE_BYTES)))


def evaluation_gpus(recipe: Recipe, shape: ModelShape, where: Cluster | None) -> int:
    """GPUs of one node that a task of an evaluation has: as few as hold the model and its answers, if a node has
    them. What they do not hold waits in host memory (model/spread.py).

    where: None, of GPUs that are not known: as many as a worker has. 0 on CPUs.
    """
    if not recipe.cluster.gpus_per_worker or where is None or not where.device.is_gpu:
        return recipe.cluster.gpus_per_worker
    found = evaluation_memory(recipe, shape, is_gpu=True)
    room = where.device.memory_bytes - found.row - GIB
    wanted = math.ceil((found.weights + found.answers) / room) if room > 0 else where.devices_per_node
    return max(1, min(wanted, where.devices_per_node))


def task_lines(recipe: Recipe, shape: ModelShape, where: Cluster) -> list[str]:
    """What both need, for `raysft plan`."""
    lines = []
    if evaluation_sets(recipe) and measured_by_workers(recipe):
        lines.append("evaluate  losses before and after by the training workers, each with its part of the model")
    elif evaluation_sets(recipe):
        lines.append(_evaluation_line(recipe, shape, where))
    tasks = export_tasks(recipe, shape)
    who = "one task," if tasks == 1 else f"{tasks} tasks, each of"
    size = f"{export_memory(recipe, shape) / GIB:.1f} GiB"
    return [*lines, f"export    {who} {size} of host memory: a tensor at a time"]


def _evaluation_line(recipe: Recipe, shape: ModelShape, where: Cluster) -> str:
    found = evaluation_memory(recipe, shape, is_gpu=where.device.is_gpu)
    gpus = evaluation_gpus(recipe, shape, where)
    tasks = evaluation_tasks(recipe, max(1, gpus))
    parts = f"weights {found.weights / GIB:.1f}, a row {found.row / GIB:.1f}"
    if found.answers:
        parts += f", {ANSWERS} answers at most {found.answers / GIB:.1f}"
    how = "one task of" if tasks == 1 else f"{tasks} tasks, each of"
    size = "one worker's size" if gpus <= 1 else f"{gpus} GPUs of a node"
    outside = found.weights + found.row - max(1, gpus) * where.device.memory_bytes
    more = ""
    if _least(found, shape) > where.device.memory_bytes:
        more = ", more than it has: the run is refused"
    elif outside > 0:
        more = f"; {outside / GIB:.1f} of it wait in {'host memory' if gpus else 'files'}: slow"
    return f"evaluate  {how} {size}: {parts} GiB{more}"


def check_tasks(recipe: Recipe, shape: ModelShape, where: Cluster | None, host_bytes: float) -> None:
    """Refuse a run whose evaluation or export cannot fit, before it trains. Raises ClusterError.

    where: the GPUs of the evaluation; None: it runs on CPUs, or on GPUs that are not known. host_bytes: what Ray has
    on the largest node; 0: not known.
    """
    host = host_bytes / RAY_SHARE
    if evaluation_sets(recipe) and not measured_by_workers(recipe):
        found = evaluation_memory(recipe, shape, is_gpu=bool(recipe.cluster.gpus_per_worker))
        there = where.device.memory_bytes if where else 0.0 if recipe.cluster.gpus_per_worker else host
        if there and _least(found, shape) > there:
            raise _no_evaluation(recipe, _least(found, shape), there)
    if host and export_memory(recipe, shape) > host:
        raise _too_large("the export", export_memory(recipe, shape), host, "use nodes with more memory")


def _least(found: EvaluationMemory, shape: ModelShape) -> int:
    """Bytes where it computes for certain, however short prompts are: what is outside of the layers, one of them, a
    row. The others may come from elsewhere when their turn is."""
    layers = found.weights * shape.num_layers * shape.layer_parameters // shape.num_parameters
    return found.weights - layers + layers // shape.num_layers + found.row


def _no_evaluation(recipe: Recipe, needed: float, there: float) -> ClusterError:
    elsewhere = "and measure the export elsewhere (`raysft evaluate --model`)"
    fix = f"leave out data.eval, data.eval_fraction and evaluate.sets {elsewhere}, or use larger devices"
    if any(plan.prompts for plan in evaluation_sets(recipe).values()) and answers_of(recipe) == "one":
        fix = (
            "ask for losses alone, which the training workers measure (evaluate.generate_prompts: 0, no answers in "
            f"evaluate.sets), {elsewhere}, or use larger devices"
        )
    return _too_large("the evaluation before and after training", needed, there, fix)


def _too_large(what: str, needed: float, there: float, fix: str) -> ClusterError:
    return ClusterError(
        f"{what} cannot fit",
        got=f"{needed / GIB:.1f} GiB in one task",
        expected=f"at most {there / GIB:.1f} GiB",
        fix=fix,
    )


def export_memory(recipe: Recipe, shape: ModelShape) -> int:
    """Bytes of host memory that the task needs that exports: the adapters, and what is in memory of the tensor that
    is read or made, merged, cast. Types that are held whole are not known here; the run says so (decision 037)."""
    method, working = method_of(recipe), _working(recipe)
    embedding = shape.hidden_size * max(shape.vocab_size, shape.position_rows)
    layers = [linear.num_parameters for linear in shape.linears if linear.copies == 1]
    experts = [linear.num_parameters for linear in shape.linears if linear.copies > 1]
    stacks = [sum(experts) - min(experts), min(experts)] if experts else []  # gate and up in one
    largest = max([embedding, *layers, *stacks])
    if method.trains_base:  # the bytes of the checkpoint and the tensor made of them
        return 2 * FLOAT32 * largest
    cast = working if working < FLOAT32 else 0
    adapted = adapted_names(recipe, shape)
    merged = [2 * FLOAT32 * linear.num_parameters for linear in shape.linears if linear.name in adapted]
    if experts:  # both stacks of a layer, a product of the size of one; or its parts beside it
        merged.append(FLOAT32 * (sum(experts) + max(stacks)))
    single = change(recipe, {"parallel.tensor": 1})
    adapters = FLOAT32 * shape.num_layers * adapter_parameters(single, shape)
    return adapters + max([(FLOAT32 + cast) * largest, *merged])


def _working(recipe: Recipe) -> int:
    return 2 if recipe.train.precision == "bf16" else FLOAT32
