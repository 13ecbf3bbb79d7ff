"""Tokens drawn by chance that belongs to a prompt: the same in any batch, on any machine, after any interruption.

The largest of log-probabilities with Gumbel noise is a draw from them (Maddison, Tarlow and Minka 2014); the noise
comes from a generator of the prompt's own, so that a greedy choice over both is a sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


class Draws(LogitsProcessor):
    """Changes logits so that the largest is a draw. One object for one batch."""

    def __init__(self, numbers: Sequence[int], *, seed: int, temperature: float, top_k: int, top_p: float) -> None:
        """numbers: of the prompts, row by row. temperature: above 0. top_k: 0 for all. top_p: in (0, 1]."""
        self._random = [torch.Generator().manual_seed(_seed(seed, number)) for number in numbers]
        warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(temperature))]
        if top_k:
            warpers.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            warpers.append(TopPLogitsWarper(top_p))
        self._warp = LogitsProcessorList(warpers)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """See LogitsProcessor. scores: [B, V]."""
        logits: Tensor = self._warp(input_ids, scores.float())
        waits = torch.stack([torch.empty(logits.shape[-1]).exponential_(generator=one) for one in self._random])
        return cast(torch.FloatTensor, logits - waits.log().to(logits.device))


def _seed(seed: int, number: int) -> int:
    """Far from that of the next prompt and the next seed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big") >> 1
