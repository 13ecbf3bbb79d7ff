"""The iteration against singular values and against torch's own Muon; what the optimizer does by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raysft.engine.muon import MatrixAdamW, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (24, 6), (6, 24), (3, 5, 4)])
def test_singular_values_come_near_1_and_directions_stay(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / matrix.norm(dim=(-2, -1))[..., None]
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert torch.allclose(orthogonal(matrix), u @ torch.diag_embed(values) @ v, atol=1e-6)
    assert ((values > 0.6) & (values < 1.3)).all()


def test_no_direction_is_none() -> None:
    assert orthogonal(torch.zeros(4, 3)).abs().max() == 0


def test_three_updates_equal_those_of_torch() -> None:
    """torch.optim.Muon iterates in bf16, so that its updates have two digits."""
    torch.manual_seed(0)
    start, rate, decay = torch.randn(12, 20), 0.01, 0.1
    theirs, ours = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    other = torch.optim.Muon([theirs], lr=rate, weight_decay=decay, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    optimizer = MatrixAdamW([{"params": [ours], "momentum": 0.9}], lr=rate)
    optimizer.state[ours] = {"step": torch.zeros(())} | {
        moment: torch.zeros_like(ours) for moment in ("exp_avg", "exp_avg_sq")
    }
    for _ in range(3):
        theirs.grad = torch.randn(12, 20)
        ours.grad = theirs.grad.clone()
        other.step()
        optimizer.step()
        assert ours.grad is not None, "the engine still reads it"
        with torch.no_grad():
            moved = 0.2 * 20**0.5 * orthogonal(optimizer.state[ours]["exp_avg_sq"])
            ours.mul_(1 - rate * decay).sub_(rate * moved)
    assert (ours - theirs).abs().max() < 0.03 * (theirs - start).abs().max()
    assert optimizer.state[ours]["step"] == 3


def test_what_is_no_matrix_is_moved_by_adamw() -> None:
    torch.manual_seed(0)
    start = torch.randn(6)
    theirs, ours, matrix = nn.Parameter(start.clone()), nn.Parameter(start.clone()), nn.Parameter(torch.ones(2, 2))
    other = torch.optim.AdamW([theirs], lr=0.1)
    optimizer = MatrixAdamW([{"params": [ours]}, {"params": [matrix], "momentum": 0.9}], lr=0.1)
    optimizer.state[matrix] = {"step": torch.zeros(())} | {
        moment: torch.zeros_like(matrix) for moment in ("exp_avg", "exp_avg_sq")
    }
    theirs.grad, matrix.grad = torch.randn(6), torch.ones(2, 2)
    ours.grad = theirs.grad.clone()
    other.step()
    optimizer.step()
    assert torch.equal(ours, theirs)
    assert torch.equal(matrix, torch.ones(2, 2)), "that is the second part of an update"
