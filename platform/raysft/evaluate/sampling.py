"""How an answer is chosen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Token by token. Greedily, unless told otherwise."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0: greedily. Else logits are divided by it, and tokens drawn."""
    top_k: int = 0
    """Only the most probable ones are drawn; 0: all."""
    top_p: float = 1.0
    """Only the most probable ones that have this share of the probability together are drawn."""
    seed: int = 0
