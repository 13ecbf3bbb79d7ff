"""May a recipe's layout run with its model? If not, which is the nearest that may.

Owns the numbers that a layout must divide; which kinds of layouts go together is the table in compatibility.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from raysft.errors import RecipeError
from raysft.recipe.change import change
from raysft.recipe.compatibility import cell_of, verdict
from raysft.recipe.facts import ModelFacts
from raysft.recipe.families import CUT_INTO_SHARDS, CUT_INTO_STAGES
from raysft.recipe.schema import Recipe


@dataclass(frozen=True)
class LayoutProblem:
    """A reason why a recipe cannot run in its layout."""

    what: str
    got: str
    expected: str


def layout_problems(recipe: Recipe, model: ModelFacts) -> Iterator[LayoutProblem]:
    """Everything that keeps this recipe's layout from running with this model, the first to be told first."""
    parallel, workers = recipe.parallel, recipe.cluster.workers
    split = parallel.tensor * parallel.pipeline * parallel.sequence
    if workers % split:
        yield LayoutProblem(
            "the workers do not divide into replicas",
            f"cluster.workers = {workers}",
            f"a multiple of tensor x pipeline x sequence = {parallel.tensor} x {parallel.pipeline} x "
            f"{parallel.sequence} = {split}",
        )
    found = verdict(cell_of(recipe))
    if found.status == "refused":
        yield LayoutProblem(f"this combination cannot run: {found.why}", _axes(recipe), found.instead)
    yield from _noise_problems(recipe)
    for axis, ways, parts, types in (
        ("pipeline", parallel.pipeline, "pipeline stages", CUT_INTO_STAGES),
        ("tensor", parallel.tensor, "tensor-parallel shards", CUT_INTO_SHARDS),
    ):
        if ways > 1 and model.model_type not in types:
            yield LayoutProblem(
                f"this model type cannot be cut into {parts}",
                f"parallel.{axis} = {ways}, model type {model.model_type}",
                f"one of {', '.join(sorted(types))}",
            )
    if parallel.pipeline > model.num_layers:
        yield LayoutProblem(
            "there are more pipeline stages than layers",
            f"parallel.pipeline = {parallel.pipeline}",
            f"at most {model.num_layers}, one layer for each stage",
        )
    for name, size, axis, ways in (
        ("heads", model.num_heads, "tensor", parallel.tensor),
        ("heads of keys and values", model.num_kv_heads, "tensor", parallel.tensor),
        ("heads", model.num_heads, "sequence", parallel.tensor * parallel.sequence),  # those of keys are repeated
    ):
        if size % ways:
            yield LayoutProblem(
                f"the attention heads do not divide over {axis}-parallel ranks",
                f"{size} {name}, {_axes(recipe)}",
                f"ranks that divide {size}",
            )
            return
    replicas = workers // split
    if replicas > recipe.train.rows_per_step:
        yield LayoutProblem(
            "there are more replicas than rows in a step",
            f"{replicas} replicas, train.rows_per_step = {recipe.train.rows_per_step}",
            "at least one row for every replica",
        )


def _noise_problems(recipe: Recipe) -> Iterator[LayoutProblem]:
    """What train.embedding_noise and train.adversarial_epsilon do not go with."""
    parallel = recipe.parallel
    wrong = {
        f"parallel.pipeline = {parallel.pipeline}": parallel.pipeline > 1,
        f"parallel.sequence = {parallel.sequence}": parallel.sequence > 1,
    }
    if recipe.train.adversarial_epsilon:
        for axis, holds in (
            *wrong.items(),
            (f"parallel.tensor = {parallel.tensor}", parallel.tensor > 1),
            (f"parallel.zero = {parallel.zero}", parallel.zero == 3),
        ):
            if holds:
                yield LayoutProblem(
                    "the embeddings of adversarial training are moved where all of a model lies on each worker",
                    f"train.adversarial_epsilon = {recipe.train.adversarial_epsilon:g}, {axis}",
                    "data parallelism with ZeRO 0 to 2, or train.adversarial_epsilon: 0",
                )
    for what in (what for what, holds in wrong.items() if holds and recipe.train.embedding_noise):
        yield LayoutProblem(
            "noise on embeddings is drawn where whole rows of tokens are embedded",
            f"train.embedding_noise = {recipe.train.embedding_noise:g}, {what}",
            "data and tensor parallelism, or train.embedding_noise: 0",
        )


def check_layout(recipe: Recipe, model: ModelFacts) -> None:
    """Refuse a layout that cannot run, and name the nearest one that can. Raises RecipeError."""
    for problem in layout_problems(recipe, model):
        fix = f"{changes(recipe, nearest(recipe, model))} (the nearest layout that runs)"
        raise RecipeError(problem.what, got=problem.got, expected=problem.expected, fix=fix)


def nearest(recipe: Recipe, model: ModelFacts) -> Recipe:
    """The recipe that can run with the fewest doublings of an axis, of workers or of rows; tested if equal."""
    best: list[tuple[bool, Recipe]] = []
    reached = math.inf
    for distance, layout in sorted(_neighbours(recipe, model)):
        if distance > reached:
            break
        candidate = with_layout(recipe, *layout)
        if next(layout_problems(candidate, model), None) is None:
            reached = distance
            best.append((verdict(cell_of(candidate)).status == "untested", candidate))
    return min(best, key=lambda entry: entry[0])[1]


def with_layout(recipe: Recipe, zero: int, axes: tuple[int, int, int], workers: int, rows: int) -> Recipe:
    """The recipe in another layout. axes: tensor, pipeline, sequence."""
    tensor, pipeline, sequence = axes
    parallel = {"zero": zero, "tensor": tensor, "pipeline": pipeline, "sequence": sequence}
    return change(
        recipe,
        {
            **{f"parallel.{name}": value for name, value in parallel.items()},
            "cluster.workers": workers,
            "train.rows_per_step": rows,
        },
    )


def changes(old: Recipe, new: Recipe) -> str:
    """`set parallel.zero to 1 and cluster.workers to 4`."""
    wanted = [
        f"{section}.{name} to {value}"
        for section, name, before, value in (
            *(("parallel", n, v, new.parallel.model_dump()[n]) for n, v in old.parallel.model_dump().items()),
            ("cluster", "workers", old.cluster.workers, new.cluster.workers),
            ("train", "rows_per_step", old.train.rows_per_step, new.train.rows_per_step),
        )
        if before != value
    ]
    return "set " + " and ".join(wanted)


def _neighbours(
    recipe: Recipe, model: ModelFacts
) -> Iterator[tuple[float, tuple[int, tuple[int, int, int], int, int]]]:
    """(distance, layout for with_layout) of everything that this many workers can be split into."""
    wanted, workers, rows = recipe.parallel, recipe.cluster.workers, recipe.train.rows_per_step
    sizes = [n for n in range(1, 65) if n <= workers]
    heads = [n for n in sizes if model.num_heads % n == 0]
    layers = [n for n in sizes if n <= model.num_layers]
    for axes in product(heads, layers, heads):
        if (split := math.prod(axes)) > workers:
            continue
        before = (wanted.tensor, wanted.pipeline, wanted.sequence)
        moved = sum(_doublings(one, other) for one, other in zip(axes, before, strict=True))
        count = workers // split * split
        more_rows = max(rows, count // split)
        moved += 1.1 * _doublings(count, workers) + 2 * _doublings(more_rows, rows)
        for zero in range(4):
            yield moved + 0.5 * abs(zero - wanted.zero), (zero, axes, count, more_rows)


def _axes(recipe: Recipe) -> str:
    """What a recipe asks for, in one line."""
    parallel = recipe.parallel
    axes = f"tensor {parallel.tensor} x pipeline {parallel.pipeline} x sequence {parallel.sequence}"
    return f"{recipe.method.kind}, {recipe.objective.kind}, {recipe.train.precision}, ZeRO {parallel.zero}, {axes}"


def _doublings(one: int, other: int) -> float:
    return abs(math.log2(one / other))
