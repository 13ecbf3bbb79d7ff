"""What a fresh adapter computes of the base's weights, where these are still in their files (decision 075).

peft computes it while it puts the adapter on a model, of a model in outline from placeholders. It is computed again
from the files: a part of one weight at a time, each weight by one rank for all (engine/fill.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

Read = Callable[[Tensor, int], None]
"""Fills a flat tensor, of any precision, with the elements of a weight from a number on."""


@dataclass(frozen=True)
class OfWeight:
    """A parameter of an adapter, and how it is computed of a weight."""

    parameter: nn.Parameter
    weight: nn.Parameter
    compute: Callable[[Read], Tensor]
    """Its first value, fp32, of what reads the weight. Raises as that does."""
