"""Log-probabilities by chunks against log_softmax of all logits: values and every gradient."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from raysft.model.fast.log_probs import Choices, LogitShape, log_probs

N, D, V, K = 11, 6, 17, 3
SHAPES = {
    "plain": LogitShape(),
    "scaled": LogitShape(scale=0.25),
    "capped": LogitShape(scale=3.0, cap=2.0),
    "warm": LogitShape(scale=3.0, cap=2.0, temperature=1.7),
}


def given(dtype: torch.dtype = torch.float64, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """(hidden, weight, bias, ids)."""
    draw = torch.Generator().manual_seed(5)
    hidden, weight = torch.randn(N, D, generator=draw), torch.randn(V, D, generator=draw)
    offset = torch.randn(V, generator=draw).to(dtype).requires_grad_() if bias else None
    ids = torch.stack([torch.randperm(V, generator=draw)[:K] for _ in range(N)])
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), offset, ids


def whole(hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, shape: LogitShape) -> Tensor:
    logits = hidden @ weight.T * shape.scale if bias is None else (hidden @ weight.T + bias) * shape.scale
    if shape.cap is not None:
        logits = shape.cap * torch.tanh(logits / shape.cap)
    return torch.log_softmax(logits / shape.temperature, -1).gather(-1, ids)


@pytest.mark.parametrize(("shape", "chunk", "bias"), product(SHAPES, (1, 4, 100), (True, False)))
def test_values_and_gradients(shape: str, chunk: int, bias: bool) -> None:
    upstream = torch.randn(N, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = [], []
    for collect, compute in ((found, True), (expected, False)):
        hidden, weight, offset, ids = given(bias=bias)
        value = (
            log_probs(hidden, weight, offset, Choices(ids, SHAPES[shape]), chunk)
            if compute
            else whole(hidden, weight, offset, ids, SHAPES[shape])
        )
        (value * upstream).sum().backward()
        collect += [value.detach(), hidden.grad, weight.grad, *([offset.grad] if offset is not None else [])]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_frozen_head_gets_no_gradient_and_nothing_is_asked_of_no_position() -> None:
    hidden, weight, offset, ids = given()
    weight.requires_grad_(False)
    log_probs(hidden, weight, offset, Choices(ids, LogitShape()), 4).sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None
    none = log_probs(hidden[:0], given()[1], None, Choices(ids[:0], LogitShape()), 4)
    none.sum().backward()
    assert none.shape == (0, K)


def test_half_precision_is_summed_in_fp32() -> None:
    hidden, weight, offset, ids = given(torch.bfloat16)
    found = log_probs(hidden, weight, offset, Choices(ids, LogitShape()), 4)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    exact = whole(*(None if x is None else x.detach().double() for x in (hidden, weight, offset)), ids, LogitShape())  # type: ignore[arg-type]
    torch.testing.assert_close(found.detach().double(), exact, rtol=0.02, atol=0.05)
