"""Room for virtual tokens in packed rows: by hand, and as any rows have it."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from raysft.model.methods.layout import with_room


def positions_of(rows: list[list[int]]) -> Tensor:
    """Of rows of segments of these lengths."""
    return torch.tensor([[place for length in row for place in range(length)] for row in rows])


def test_virtual_tokens_stand_before_every_segment() -> None:
    roomy, _ = with_room(positions_of([[3, 2, 1], [6]]), 2)
    assert roomy.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 0, 1]]
    tokens, virtual = torch.arange(1, 13.0).view(2, 6, 1), torch.tensor([[-1.0], [-2.0]])
    assert roomy.spread(tokens, virtual)[..., 0].tolist() == [
        [-1, -2, 1, 2, 3, -1, -2, 4, 5, -1, -2, 6],
        [-1, -2, 7, 8, 9, 10, 11, 12, -1, -2, -1, -2],
    ]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_rows(seed: int) -> None:
    """Each segment reads as it would alone; what fills shorter rows has no position that segments lack."""
    draw = random.Random(seed)
    width, count = draw.randint(1, 30), draw.randint(1, 7)
    rows = []
    for _ in range(draw.randint(1, 5)):
        row: list[int] = []
        while sum(row) < width:
            row.append(draw.randint(1, width - sum(row)))
        rows.append(row)
    positions = positions_of(rows)
    tokens = torch.arange(1, 1 + positions.numel(), dtype=torch.float64).view(*positions.shape, 1)
    virtual = -torch.arange(1, 1 + count, dtype=torch.float64)[:, None]
    roomy, _ = with_room(positions, count)
    spread = roomy.spread(tokens, virtual)[..., 0].tolist()
    for row, values, places, own in zip(rows, spread, roomy.position_ids.tolist(), tokens.tolist(), strict=True):
        numbers = [value for (value,) in own]
        for length in row + [0] * (max(map(len, rows)) - len(row)):
            whole = [-float(k) for k in range(1, 1 + count)] + numbers[:length]
            assert values[: len(whole)] == whole
            assert places[: len(whole)] == list(range(len(whole)))
            values, places, numbers = values[len(whole) :], places[len(whole) :], numbers[length:]
        assert (values, places, numbers) == ([], [], [])
    assert torch.equal(roomy.of_tokens(roomy.spread(tokens, virtual)), tokens)


def test_gradients_of_many_segments_are_added_up_in_fp32() -> None:
    """In bf16 a running sum of ones stops at 256."""
    virtual = torch.zeros(1, 1, dtype=torch.bfloat16, requires_grad=True)
    roomy, _ = with_room(torch.zeros(1, 1000, dtype=torch.int64), 1)
    roomy.spread(torch.zeros(1, 1000, 1, dtype=torch.bfloat16), virtual).sum().backward()
    assert virtual.grad is not None
    assert float(virtual.grad) == 1000
