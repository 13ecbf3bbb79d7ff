"""NEFTune's noise: its bound by a sample's own length, whatever it is packed with, and none in evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from raysft.objectives.noise import EmbeddingNoise

V, D, ALPHA = 30, 400, 5.0


@pytest.fixture
def embedding() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(V, D)


def test_the_noise_of_a_sample_is_bounded_by_its_own_length(embedding: nn.Embedding) -> None:
    ids = torch.randint(0, V, (2, 9))
    segments = torch.tensor([[0, 0, 0, 0, 0, 0, 0, -1, -1], [1, 1, 2, 3, 3, 3, 3, 3, 3]])
    plain = embedding(ids).detach()
    noise = EmbeddingNoise(embedding, ALPHA)
    noise.expect(segments, 4)
    found = (embedding(ids) - plain).abs().detach()
    for segment, length in ((0, 7), (1, 2), (2, 1), (3, 6)):
        own, bound = found[segments == segment], ALPHA / math.sqrt(length * D)
        assert float(own.max()) <= bound * (1 + 1e-5)
        assert float(own.max()) > 0.95 * bound
        assert float(own.mean()) == pytest.approx(bound / 2, rel=0.1)


def test_the_same_seed_draws_the_same_and_evaluation_draws_nothing(embedding: nn.Embedding) -> None:
    ids = torch.arange(12).view(2, 6)
    plain = embedding(ids).detach()
    noise = EmbeddingNoise(embedding, ALPHA)
    noise.expect(torch.zeros(2, 6, dtype=torch.int64), 1)
    torch.manual_seed(7)
    first = embedding(ids)
    torch.manual_seed(7)
    assert torch.equal(first, embedding(ids))
    assert not torch.equal(first, plain)
    embedding.train(False)
    assert torch.equal(embedding(ids), plain)
