"""The probe with engines that only pretend: what fits, what is halved, what is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from fakes import FakeEngine, FakeGroup

from raysft.engine.protocol import HostBatch
from raysft.errors import ModelError, TrainingError
from raysft.train.history.failures import is_out_of_memory
from raysft.train.probe import Largest, fit

CPU = torch.device("cpu")
MESSAGES = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
    RuntimeError("NCCL error: unhandled system error\nLast error:\nFailed to CUDA calloc 6291456 bytes"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: not enough memory"),
)


class SmallEngine(FakeEngine):
    """Holds `room` rows; more raise `error`."""

    def __init__(self, room: int, error: Exception = MESSAGES[1]) -> None:
        super().__init__()
        self.room, self.error = room, error
        self.units: list[Mapping[str, float]] = []
        self.closed = False

    def train_step(self, micro_batches: Sequence[HostBatch], units: Mapping[str, float], **more: Any) -> Any:
        self.units.append(units)
        if max(batch.input_ids for batch in micro_batches) > self.room:  # type: ignore[type-var]
            raise self.error
        return super().train_step(micro_batches, units, **more)

    def close(self) -> None:
        self.closed = True


class Rows:
    """A micro-batch that knows only how many rows it has."""

    def __init__(self, rows: int) -> None:
        self.input_ids = rows


def largest(rows: int, *, may_halve: bool = True) -> Largest:
    return Largest(lambda n: [Rows(n)], rows, ("nll",), may_halve, "12 GiB by plan")  # type: ignore[list-item]


def test_what_fits_is_probed_once_and_without_an_update() -> None:
    engine, probed = fit(lambda rows: SmallEngine(4), largest(4), FakeGroup(), CPU)
    assert probed.micro_batch_rows == 4
    assert probed.probe_s >= 0
    assert [math.isnan(units["nll"]) for units in engine.units] == [True]  # no gradient is finite: none is applied
    assert not engine.closed


@pytest.mark.parametrize(("wanted", "room", "tried"), [(8, 3, [8, 4, 2]), (5, 1, [5, 2, 1])])
def test_rows_are_halved_until_they_fit(wanted: int, room: int, tried: list[int]) -> None:
    built: list[tuple[int, SmallEngine]] = []

    def build(rows: int) -> SmallEngine:
        built.append((rows, SmallEngine(room)))
        return built[-1][1]

    engine, probed = fit(build, largest(wanted), FakeGroup(), CPU)
    assert [rows for rows, _ in built] == tried
    assert probed.micro_batch_rows == tried[-1]
    assert [one.closed for _, one in built] == [True] * (len(tried) - 1) + [False]
    assert engine is built[-1][1]


def test_without_leave_to_halve_the_error_tells_what_to_do() -> None:
    with pytest.raises(ModelError) as told:
        fit(lambda rows: SmallEngine(1), largest(2, may_halve=False), FakeGroup(), CPU)
    assert "2 rows" in told.value.got
    assert "Tried to allocate 2.00 GiB" in told.value.got
    assert told.value.expected == "12 GiB by plan"
    assert "auto_micro_batch" in told.value.fix


def test_one_row_that_does_not_fit_ends_it() -> None:
    with pytest.raises(ModelError) as told:
        fit(lambda rows: SmallEngine(0), largest(4), FakeGroup(), CPU)
    assert "1 rows" in told.value.got
    assert "gradient_checkpointing" in told.value.fix


def test_another_rank_that_ran_out_counts_for_all() -> None:
    with pytest.raises(ModelError, match="another worker"):
        fit(lambda rows: SmallEngine(9), largest(2, may_halve=False), FakeGroup(others_agree=False), CPU)


def test_a_rank_that_ran_out_alone_does_not_wait_for_ever() -> None:
    class Alone(FakeGroup):
        def all_true_within(self, value: bool, timeout_s: float) -> bool:
            raise RuntimeError("Timed out waiting for the others")

    with pytest.raises(TrainingError, match="the others did not"):
        fit(lambda rows: SmallEngine(0), largest(2), Alone(), CPU)
    with pytest.raises(RuntimeError, match="Timed out"):
        fit(lambda rows: SmallEngine(9), largest(2), Alone(), CPU)


@pytest.mark.parametrize("error", MESSAGES, ids=lambda error: type(error).__name__)
def test_failed_allocations_are_known(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_no_lack_of_memory() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)")
    assert not is_out_of_memory(error)
    with pytest.raises(RuntimeError, match="shapes"):
        fit(lambda rows: SmallEngine(0, error), largest(2), FakeGroup(), CPU)


def test_the_generator_stays_where_it_was() -> None:
    class Drawing(SmallEngine):
        def train_step(self, *arguments: Any, **more: Any) -> Any:
            torch.rand(1)
            return super().train_step(*arguments, **more)

    before = torch.get_rng_state()
    fit(lambda rows: Drawing(4), largest(4), FakeGroup(), CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(told.value)
