"""What a whole step is compared by, and what each micro-batch gets of it; between ranks: tests/parity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from objective_rows import batches
from torch import Tensor

from raysft.engine.whole_step import step_columns, text_keys
from raysft.objectives.contrastive import COST, RIGHT, SLOPE
from raysft.objectives.objective import Objective, StepSamples, WholeStep


@pytest.fixture
def alone() -> object:
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_equal_tokens_have_equal_keys() -> None:
    first, second, empty = batches(())
    keys = text_keys(first)
    assert keys.shape == (4,)
    assert len(set(keys.tolist())) == 4
    assert len(text_keys(empty)) == 0
    second.input_ids[0, :2] = first.input_ids[0, 8:10]
    assert text_keys(second)[0] not in keys.tolist(), "a part of a text is another text"
    other = np.where(second.segment_of < 0, 5, second.input_ids)
    second.input_ids[:] = other
    assert text_keys(second)[1:].tolist() == text_keys(batches(())[1])[1:].tolist(), "padding is no part of it"


@pytest.mark.usefixtures("alone")
def test_every_micro_batch_gets_what_is_its_own() -> None:
    given = batches(())
    seen: list[StepSamples] = []

    def solve(samples: StepSamples) -> dict[str, Tensor]:
        seen.append(samples)
        atoms = int(samples.is_first.sum())
        return {COST.name: torch.arange(atoms), RIGHT.name: torch.ones(atoms), SLOPE.name: 2 * samples.vectors}

    def vectors_of(batch: object, zeros: object) -> Tensor:
        number = next(n for n, one in enumerate(given) if one is batch)
        assert not any(column.any() for column in zeros.values())
        return torch.full((len(given[number].atom_of), 3), float(number))

    objective = Objective((), lambda *given: None, whole_step=WholeStep((COST, RIGHT, SLOPE), solve))
    found = step_columns(objective, given, vectors_of, 0, counts=True)
    assert [columns[COST.name].tolist() for columns in found] == [[0, 1], [2, 3, 4], []]
    assert [len(columns[SLOPE.name]) for columns in found] == [4, 6, 0]
    assert found[1][SLOPE.name].unique().tolist() == [2.0]
    assert seen[0].is_first.tolist() == [True, False] * 5
    assert seen[0].keys.tolist() == [*text_keys(given[0]), *text_keys(given[1])]


def test_a_sum_over_micro_batches_needs_nothing_of_the_step() -> None:
    assert (
        step_columns(Objective((), lambda *given: None), batches(()), lambda *given: None, 0, counts=True) == [{}] * 3
    )
