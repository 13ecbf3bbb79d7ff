"""Draws have the probabilities of the logits, and a prompt's chance is its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from raysft.evaluate.draws import Draws

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])


def drawn(numbers: list[int], rows: int = 1, **fields: Any) -> Tensor:
    """Tokens of each prompt, one after another: [prompts, rows]."""
    draws = Draws(numbers, **{"seed": 0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **fields})
    logits: Any = LOGITS.expand(len(numbers), -1)
    nothing: Any = torch.zeros((len(numbers), 0), dtype=torch.long)
    return torch.stack([draws(nothing, logits).argmax(-1) for _ in range(rows)], dim=1)


@pytest.mark.parametrize(
    ("fields", "probabilities"),
    [
        ({}, LOGITS.softmax(-1)),
        ({"temperature": 2.0}, (LOGITS / 2).softmax(-1)),
        ({"top_k": 2}, torch.cat([LOGITS[:2].softmax(-1), torch.zeros(3)])),
        ({"top_p": 0.7}, torch.cat([LOGITS[:2].softmax(-1), torch.zeros(3)])),  # 0.64 + 0.24
        ({"top_p": 0.6}, torch.tensor([1.0, 0, 0, 0, 0])),
    ],
)
def test_tokens_come_as_often_as_they_are_probable(fields: dict[str, Any], probabilities: Tensor) -> None:
    count = 4000
    tokens = drawn([3], count, **fields)[0]
    shares = torch.bincount(tokens, minlength=5) / count
    assert torch.allclose(shares, probabilities, atol=0.025)  # 3 standard deviations of a share of 1/2
    assert bool((shares[probabilities == 0] == 0).all())


def test_a_prompts_chance_is_its_own() -> None:
    together = drawn([7, 8, 9], 50)
    assert torch.equal(drawn([8], 50)[0], together[1])
    assert torch.equal(drawn([9, 7], 50), together[[2, 0]])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(drawn([8], 50, seed=1)[0], together[1])
