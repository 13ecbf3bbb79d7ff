"""The compatibility matrix: method x objective x precision x parallel. One table, pure.

A cell is refused (why, and what to use instead), tested (which test trains it) or untested (allowed, with a warning).
Numbers that a layout must divide, and the layout to use instead, are in layout_checks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from raysft.recipe.objective_traits import OBJECTIVES
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import METHODS

Status = Literal["tested", "untested", "refused"]

PRECISIONS = ("fp32", "bf16")


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
        return " x ".join(name for name in ("pipeline", "tensor", "sequence") if name in self.axes) or "data"

    @property
    def axes(self) -> frozenset[str]:
        """Those that are larger than 1, besides data parallelism."""
        used = {"pipeline": self.pipeline, "tensor": self.tensor, "sequence": self.sequence}
        return frozenset(name for name, is_used in used.items() if is_used)

    @property
    def words(self) -> str:
        """All of it in one line."""
        return f"{self.method}, {self.objective}, {self.precision}, ZeRO {self.zero}, {self.parallel} parallel"


@dataclass(frozen=True)
class Verdict:
    """What the table says of a cell."""

    status: Status
    why: str = ""
    """Reason of a refusal."""
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
    objectives: frozenset[str] = frozenset(("sft",))
    methods: frozenset[str] = frozenset(("full", "lora"))


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
        lambda cell: cell.pipeline and OBJECTIVES[cell.objective].whole_rows,
        "this objective needs whole sequences on one rank, and only the last stage of a pipeline sees the loss",
        "tensor parallelism or ZeRO 3",
    ),
    _Refusal(
        lambda cell: not cell.axes <= METHODS[cell.method].allows,
        "raysft cuts what this method trains over no such axis",
        "data parallelism with ZeRO, or method.kind: lora",
    ),
)
"""The first that holds counts."""

_PARITY = "tests/parity/test_parity.py::"
_TENSOR = "tests/parity/test_tensor.py::"
_SEQUENCE = "tests/parity/test_sequence.py::"
_OBJECTIVES = "tests/parity/test_objectives.py::"
_METHODS = "tests/parity/test_methods.py::"
_TESTED = (
    _Tested(
        lambda cell: cell.parallel == "data" and cell.method == "full" and cell.precision == "fp32",
        (_PARITY + "test_zero_workers_and_micro_batches",),
    ),
    _Tested(
        lambda cell: cell.parallel == "data" and cell.precision == "bf16" and cell.method == "full",
        (_PARITY + "test_resume_at_the_same_size_is_bit_identical",),
    ),
    _Tested(  # ZeRO 0 runs as ZeRO 1 in bf16
        lambda cell: cell.parallel == "data" and cell.method == "lora" and cell.precision == "bf16",
        (_PARITY + "test_lora_in_bf16_resumes_bit_identically",),
    ),
    _Tested(
        lambda cell: cell.parallel == "pipeline" and cell.precision == "fp32",
        ("tests/parity/test_pipeline.py::test_stages_and_replicas",),
    ),
    _Tested(
        lambda cell: cell.parallel == "pipeline" and cell.precision == "bf16",
        ("tests/parity/test_pipeline.py::test_bf16_resumes_bit_identically",),
    ),
    _Tested(
        lambda cell: cell.parallel == "tensor" and cell.method == "full" and cell.precision == "fp32",
        (_TENSOR + "test_shards_of_layers",),
    ),
    _Tested(
        lambda cell: cell.parallel == "tensor" and cell.method == "lora" and cell.precision == "fp32",
        (_TENSOR + "test_adapters_are_cut_with_their_layers",),
    ),
    _Tested(
        lambda cell: cell.parallel == "tensor" and cell.precision == "bf16",
        (_TENSOR + "test_bf16_resumes_bit_identically",),
    ),
    _Tested(
        lambda cell: cell.parallel == "sequence" and cell.method == "full" and cell.precision == "fp32",
        (_SEQUENCE + "test_parts_of_rows",),
    ),
    _Tested(
        lambda cell: cell.parallel == "sequence" and cell.method == "lora" and cell.precision == "fp32",
        (_SEQUENCE + "test_adapters",),
    ),
    _Tested(
        lambda cell: cell.parallel == "sequence" and cell.precision == "bf16",
        (_SEQUENCE + "test_bf16_resumes_bit_identically",),
    ),
    _Tested(
        lambda cell: cell.parallel == "tensor x sequence" and cell.method == "full" and cell.precision == "fp32",
        (_TENSOR + "test_shards_and_parts_of_rows",),
    ),
    _Tested(
        lambda cell: cell.method == "full" and cell.precision == "fp32" and len(cell.axes) <= 1,
        (_OBJECTIVES + "test_every_split_has_the_curve",),
        objectives=frozenset(OBJECTIVES),
    ),
    _Tested(
        lambda cell: not METHODS[cell.method].trains_base and cell.precision == "fp32" and len(cell.axes) <= 1,
        (_METHODS + "test_an_adapter_equals_peft_alone",),
        methods=frozenset(METHODS),
    ),
    _Tested(
        lambda cell: cell.method == "lora" and cell.precision == "fp32" and len(cell.axes) <= 1,
        (_OBJECTIVES + "test_adapters",),
        objectives=frozenset(OBJECTIVES),
    ),
)
"""Every one that holds counts. tests/unit/recipe/test_compatibility.py checks that these tests exist."""


def verdict(cell: Cell) -> Verdict:
    """What the table says of a cell."""
    for refusal in _REFUSED:
        if refusal.holds(cell):
            return Verdict("refused", refusal.why, refusal.instead)
    tests = tuple(
        test
        for entry in _TESTED
        if entry.objectives >= {cell.objective} and entry.methods >= {cell.method} and entry.holds(cell)
        for test in entry.tests
    )
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
        objective=recipe.objective.kind,
        precision=recipe.train.precision,
        zero=parallel.zero,
        pipeline=parallel.pipeline > 1,
        tensor=parallel.tensor > 1,
        sequence=parallel.sequence > 1,
    )
