"""Adafactor on ranges of weights, against torch's own on whole ones."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raysft.engine.adafactor import Adafactor, Flat, Piece

SHAPES = {"matrix": (6, 10), "experts": (3, 4, 5), "vector": (7,), "tall": (9, 1)}
RATE, DECAY = 0.2, 0.1


def in_one_flat(weights: dict[str, nn.Parameter], cuts: tuple[int, ...]) -> tuple[Tensor, list[Piece]]:
    """All weights behind one another, each a piece; pieces are cut at these places of the flat tensor."""
    flat, pieces, offset = torch.cat([w.detach().flatten() for w in weights.values()]), [], 0
    for name, weight in weights.items():
        ends = [0, *(c - offset for c in cuts if 0 < c - offset < weight.numel()), weight.numel()]
        pieces += [Piece(name, a, offset + a, b - a) for a, b in pairwise(ends)]
        offset += weight.numel()
    return flat, pieces


@pytest.mark.parametrize("cuts", [(), (3, 17, 60, 61, 77, 98, 125, 131), tuple(range(1, 140, 7))])
@pytest.mark.parametrize("clip", [1.0, 3.0])
def test_any_ranges_move_as_torch_moves_the_whole(cuts: tuple[int, ...], clip: float) -> None:
    generator = torch.Generator().manual_seed(1)
    theirs = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
    flat, pieces = in_one_flat(theirs, cuts)
    assert len(pieces) >= len(cuts)
    optimizer = Adafactor(
        [{"params": [flat], "weight_decay": DECAY}], theirs, learning_rate=RATE, decay=-0.8, clip=clip
    )
    optimizer.bind({flat: Flat(tuple(theirs), tuple(pieces))}, is_shared=False)
    optimizer.state[flat]["step"] = torch.zeros(())
    other = torch.optim.Adafactor(theirs.values(), lr=RATE, d=clip, weight_decay=DECAY)
    for step in range(4):
        for parameter in theirs.values():
            parameter.grad = (10.0**-step) * torch.randn(parameter.shape, generator=generator)
        theirs["matrix"].grad[2] = 0.0  # type: ignore[index]
        flat.grad = torch.cat([p.grad.flatten() for p in theirs.values() if p.grad is not None])
        other.step()
        optimizer.step()
        torch.testing.assert_close(flat, torch.cat([p.detach().flatten() for p in theirs.values()]))
    state: Any = other.state[theirs["experts"]]
    torch.testing.assert_close(optimizer.moments["row:experts"], state["row_var"].squeeze(-1))
    torch.testing.assert_close(optimizer.moments["column:experts"], state["col_var"].squeeze(-2))
    assert sum(moment.numel() for moment in optimizer.moments.values()) == (6 + 10) + 3 * (4 + 5) + 7 + (9 + 1)


def test_what_has_no_gradient_stays() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = Adafactor([{"params": [weight]}], {"w": weight}, learning_rate=0.1, decay=-0.8, clip=1.0)
    optimizer.bind({weight: Flat(("w",), (Piece("w", 0, 0, 4),))}, is_shared=False)
    optimizer.step()
    assert torch.equal(weight, torch.ones(2, 2))
