"""The compatibility matrix: method x objective x precision x parallel. One table, pure.

A cell is refused (why, and what to use instead), tested (which test trains it) or untested (allowed, with a warning).
Numbers that a layout must divide are in `misfits`; `nearest` finds the layout to use instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from raysft.errors import RecipeError
from raysft.recipe.facts import ModelFacts
from raysft.recipe.schema import Recipe

Status = Literal["tested", "untested", "refused"]

METHODS = ("full", "lora")
OBJECTIVES = ("sft",)
PRECISIONS = ("fp32", "bf16")
NEEDS_WHOLE_MODEL = frozenset({"dpo", "distill", "reward", "contrastive"})
"""Objectives that need more than the loss of the last pipeline stage: pooled states, a reference, a teacher."""

CUT_INTO_STAGES = frozenset(
    ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "opt")
)
"""Model types that a pipeline takes: those in model/stages.py."""


@dataclass(frozen=True)
class Cell:
    """One cell. The three axes say only whether an axis is larger than 1."""

    method: str
    objective: str
    precision: str
    zero: int
    pipeline: bool
    tensor: bool
    sequence: bool

    @property
    def parallel(self) -> str:
        """`data`, or the axes besides it."""
        axes = (("pipeline", self.pipeline), ("tensor", self.tensor), ("sequence", self.sequence))
        return " x ".join(name for name, used in axes if used) or "data"

    @property
    def words(self) -> str:
        """All of it in one line."""
        return f"{self.method}, {self.objective}, {self.precision}, ZeRO {self.zero}, {self.parallel} parallel"


@dataclass(frozen=True)
class Verdict:
    """What the table says of a cell."""

    status: Status
    why: str = ""
    """Of a refusal."""
    instead: str = ""
    tests: tuple[str, ...] = ()
    """`path::function` of the tests that train such a cell."""


@dataclass(frozen=True)
class _Refusal:
    holds: Callable[[Cell], bool]
    why: str
    instead: str


@dataclass(frozen=True)
class _Tested:
    holds: Callable[[Cell], bool]
    tests: tuple[str, ...]


_REFUSED = (
    _Refusal(
        lambda cell: cell.pipeline and cell.zero >= 2,
        "a pipeline keeps the gradients of all its micro-batches, and ZeRO 2 and 3 partition them in every backward "
        "pass (DeepSpeed refuses it)",
        "parallel.zero: 1",
    ),
    _Refusal(
        lambda cell: cell.pipeline and cell.sequence,
        "sequence parallelism changes activations inside a layer, and DeepSpeed's pipeline sends whole rows",
        "a pipeline with data parallelism, or sequence parallelism with ZeRO",
    ),
    _Refusal(
        lambda cell: cell.pipeline and cell.tensor,
        "the pipeline engine does not shard the layers of its stages",
        "a longer pipeline, or tensor parallelism with ZeRO",
    ),
    _Refusal(
        lambda cell: cell.tensor and cell.zero == 3,
        "DeepSpeed's AutoTP shards layers that ZeRO 3 has partitioned already",
        "parallel.zero: 2 with tensor parallelism, or ZeRO 3 without it",
    ),
    _Refusal(
        lambda cell: cell.pipeline and cell.objective in NEEDS_WHOLE_MODEL,
        "this objective needs whole sequences on one rank, and only the last stage of a pipeline sees the loss",
        "tensor parallelism or ZeRO 3",
    ),
)
"""The first that holds counts."""

_PARITY = "tests/parity/test_parity.py::"
_TESTED = (
    _Tested(
        lambda cell: cell.parallel == "data" and cell.method == "full" and cell.precision == "fp32",
        (_PARITY + "test_zero_workers_and_micro_batches",),
    ),
    _Tested(
        lambda cell: cell.parallel == "data" and cell.precision == "bf16" and cell.method == "full",
        (_PARITY + "test_resume_at_the_same_size_is_bit_identical",),
    ),
    _Tested(
        lambda cell: cell.parallel == "data" and cell.method == "lora" and cell.precision == "fp32",
        (_PARITY + "test_lora_equals_peft_alone",),
    ),
    _Tested(
        lambda cell: cell.parallel == "pipeline" and cell.precision == "fp32",
        ("tests/parity/test_pipeline.py::test_stages_and_replicas",),
    ),
    _Tested(
        lambda cell: cell.parallel == "pipeline" and cell.method == "full" and cell.precision == "bf16",
        ("tests/parity/test_pipeline.py::test_bf16_resumes_bit_identically",),
    ),
)
"""Every one that holds counts. tests/unit/recipe/test_matrix.py checks that these tests exist."""


def verdict(cell: Cell) -> Verdict:
    """What the table says of a cell."""
    for refusal in _REFUSED:
        if refusal.holds(cell):
            return Verdict("refused", refusal.why, refusal.instead)
    tests = tuple(test for entry in _TESTED if entry.holds(cell) for test in entry.tests)
    return Verdict("tested", tests=tests) if tests else Verdict("untested")


def cells() -> Iterator[Cell]:
    """The whole table."""
    for method, objective, precision, zero in product(METHODS, OBJECTIVES, PRECISIONS, range(4)):
        for pipeline, tensor, sequence in product((False, True), repeat=3):
            yield Cell(method, objective, precision, zero, pipeline, tensor, sequence)


def cell_of(recipe: Recipe) -> Cell:
    """The cell that a recipe is in."""
    parallel = recipe.parallel
    return Cell(
        method=recipe.method.kind,
        objective=recipe.objective,
        precision=recipe.train.precision,
        zero=parallel.zero,
        pipeline=parallel.pipeline > 1,
        tensor=parallel.tensor > 1,
        sequence=parallel.sequence > 1,
    )


@dataclass(frozen=True)
class Misfit:
    """A reason why a recipe cannot run in its layout."""

    what: str
    got: str
    expected: str


def misfits(recipe: Recipe, model: ModelFacts) -> Iterator[Misfit]:
    """Everything that keeps this recipe's layout from running with this model, the first to be told first."""
    parallel, workers = recipe.parallel, recipe.cluster.workers
    split = parallel.tensor * parallel.pipeline * parallel.sequence
    if workers % split:
        yield Misfit(
            "the workers do not divide into replicas",
            f"cluster.workers = {workers}",
            f"a multiple of tensor x pipeline x sequence = {parallel.tensor} x {parallel.pipeline} x "
            f"{parallel.sequence} = {split}",
        )
    found = verdict(cell_of(recipe))
    if found.status == "refused":
        yield Misfit(f"this combination cannot run: {found.why}", _axes(recipe), found.instead)
    if parallel.pipeline > 1 and model.model_type not in CUT_INTO_STAGES:
        yield Misfit(
            "this model type cannot be cut into pipeline stages",
            f"parallel.pipeline = {parallel.pipeline}, model type {model.model_type}",
            f"one of {', '.join(sorted(CUT_INTO_STAGES))}",
        )
    if parallel.pipeline > model.num_layers:
        yield Misfit(
            "there are more pipeline stages than layers",
            f"parallel.pipeline = {parallel.pipeline}",
            f"at most {model.num_layers}, one layer for each stage",
        )
    for name, size in (("heads", model.num_heads), ("heads of keys and values", model.num_kv_heads)):
        for axis, ways in (("tensor", parallel.tensor), ("sequence", parallel.tensor * parallel.sequence)):
            if size % ways and (axis == "tensor" or parallel.sequence > 1):
                yield Misfit(
                    f"the attention heads do not divide over {axis}-parallel ranks",
                    f"{size} {name}, {_axes(recipe)}",
                    f"ranks that divide {size}",
                )
                return
    replicas = workers // split
    if replicas > recipe.train.rows_per_step:
        yield Misfit(
            "there are more replicas than rows in a step",
            f"{replicas} replicas, train.rows_per_step = {recipe.train.rows_per_step}",
            "at least one row for every replica",
        )


def check_layout(recipe: Recipe, model: ModelFacts) -> None:
    """Refuse a layout that cannot run, and name the nearest one that can. Raises RecipeError."""
    for misfit in misfits(recipe, model):
        fix = f"{changes(recipe, nearest(recipe, model))} (the nearest layout that runs)"
        raise RecipeError(misfit.what, got=misfit.got, expected=misfit.expected, fix=fix)


def nearest(recipe: Recipe, model: ModelFacts) -> Recipe:
    """The recipe that can run with the fewest doublings of an axis, of workers or of rows; tested if equal."""
    best: list[tuple[bool, Recipe]] = []
    reached = math.inf
    for distance, layout in sorted(_neighbours(recipe, model)):
        if distance > reached:
            break
        candidate = with_layout(recipe, *layout)
        if next(misfits(candidate, model), None) is None:
            reached = distance
            best.append((verdict(cell_of(candidate)).status == "untested", candidate))
    return min(best, key=lambda entry: entry[0])[1]


def with_layout(recipe: Recipe, zero: int, axes: tuple[int, int, int], workers: int, rows: int) -> Recipe:
    """The recipe in another layout. axes: tensor, pipeline, sequence."""
    tensor, pipeline, sequence = axes
    parallel = {"zero": zero, "tensor": tensor, "pipeline": pipeline, "sequence": sequence}
    return recipe.model_copy(
        update={
            "parallel": recipe.parallel.model_copy(update=parallel),
            "cluster": recipe.cluster.model_copy(update={"workers": workers}),
            "train": recipe.train.model_copy(update={"rows_per_step": rows}),
        }
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
    return f"{recipe.method.kind}, {recipe.objective}, {recipe.train.precision}, ZeRO {parallel.zero}, {axes}"


def _doublings(one: int, other: int) -> float:
    return abs(math.log2(one / other))
