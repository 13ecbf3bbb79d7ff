"""NEFTune (Jain et al. 2023, arXiv:2310.05914): noise on the embeddings of every sample while it trains.

Shapes: B rows, T tokens a row, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class EmbeddingNoise:
    """Adds uniform noise of at most alpha / sqrt(L D) to each number of a sample of L tokens, packed or not.

    Drawn from torch's generator as dropout is, so that a resumed run draws the same.
    """

    def __init__(self, embedding: nn.Module, alpha: float) -> None:
        """embedding: answers [B, T] ids with [B, T, D]; it is changed for good."""
        self._alpha, self._lengths = alpha, torch.zeros(0)
        embedding.register_forward_hook(self._add)

    def expect(self, segment_of: Tensor, count: int) -> None:
        """The rows that come next: [B, T], the segment of each token, of `count`; -1 for padding."""
        flat = segment_of.flatten() + 1
        lengths = flat.new_zeros(count + 1).index_add(0, flat, torch.ones_like(flat))
        self._lengths = lengths[flat].view(segment_of.shape)

    def _add(self, embedding: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        if not embedding.training:
            return embedded
        bound = self._alpha / torch.sqrt(self._lengths * embedded.shape[-1])  # [B, T]
        noise = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1) * bound.unsqueeze(-1)
        return embedded + noise.to(embedded.dtype)
