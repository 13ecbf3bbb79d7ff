"""One vector a rank: its sums of a step or an evaluation, with those of the other ranks made into a result. Once, for
all engines: what differs between them is how passes run, never how their sums are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from raysft.objectives.base import Term
from raysft.objectives.reduce import Reduced, Sums, reduced


class Assembled(NamedTuple):
    """What the ranks' vectors say together."""

    found: Reduced
    tokens: int
    """Real tokens (no padding) of the global step."""


def in_order(terms: Sequence[Term], values: Mapping[str, float]) -> list[float]:
    """Values of the terms, as they stand in every vector."""
    return [values[term.name] for term in terms]


def divisors(units: Tensor) -> Tensor:
    """What sums are divided by before backward, [terms]: their units, of the whole global step.

    Where there are none the sum is 0 as well, and is divided by infinity: the term adds nothing.
    """
    return torch.where(units == 0, torch.full_like(units, torch.inf), units)


def weights(terms: Sequence[Term], like: Tensor) -> Tensor:
    """Weights of the terms, [terms]."""
    return like.new_tensor([term.weight for term in terms])


def vector(units: Tensor, sums: Tensor, tokens: int) -> Tensor:
    """What a rank tells the others, float64: units [terms] of the global step, its own sums [terms], its tokens."""
    return torch.cat([units, sums, units.new_tensor([tokens])])


def assemble(ranks: np.ndarray, terms: Sequence[Term]) -> Assembled:
    """The result of a step from the vectors of all ranks, [ranks, values]. Units are everybody's: taken from one."""
    own = ranks[:, len(terms) :].sum(axis=0)
    values = [*ranks[0][: len(terms)].tolist(), *own[:-1].tolist()]
    return Assembled(reduced([assembled_sums(values, terms)], terms), int(own[-1]))


def assembled_sums(values: Sequence[float], terms: Sequence[Term]) -> Sums:
    """Sums from a vector of units [terms], sums [terms], added up over the ranks already."""
    names = [term.name for term in terms]
    units, sums = values[: len(names)], values[len(names) :]
    return Sums(terms=dict(zip(names, sums, strict=True)), units=dict(zip(names, units, strict=True)))
