"""One vector a rank: its sums of a step or an evaluation, with those of the other ranks made into a result. Once, for
all engines: what differs between them is how passes run, never how their sums are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from raysft.objectives.base import Term
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.reduce import Reduced, Sums, reduced


class Stacked(NamedTuple):
    """A Loss as vectors."""

    sums: Tensor
    """[terms], with gradients."""
    metrics: Tensor
    """[2 x metrics + counts] float64: sum and count of each, then what is counted."""


def stacked(loss: Loss, objective: Objective) -> Stacked:
    """Sums and metrics in the order of every vector."""
    sums = torch.stack([loss.sums[term.name] for term in objective.terms])
    return Stacked(sums, metric_vector(loss, objective, sums))


def metric_vector(loss: Loss, objective: Objective, like: Tensor) -> Tensor:
    """[2 x metrics + counts] float64, on the device of `like`."""
    numbers = [number for name in objective.metrics for number in loss.metrics[name]]
    means = torch.stack(numbers).detach().double() if numbers else like.new_zeros(0, dtype=torch.float64)
    return means if loss.counts is None else torch.cat([means, loss.counts.detach().double()])


def metric_width(objective: Objective) -> int:
    """Numbers in the vector of an objective's metrics."""
    return 2 * len(objective.metrics) + objective.num_counts


def step_numbers(
    objective: Objective, measure: Callable[[Mapping[str, float]], Sums], done: float = 0.0
) -> dict[str, float]:
    """{column: what the loss reads of the whole step}: what is scheduled where this share of the run is done, and the
    mean of a metric; 0 where nothing is counted.

    measure: sums of all ranks by a pass without gradients, in which the numbers are those that it is given.
    Collective, where such metrics are read.
    """
    numbers = {name: at(done) for name, at in objective.scheduled.items()}
    if objective.step_means:
        found = measure({**numbers, **dict.fromkeys(objective.step_means, 0.0)}).metrics
        numbers |= {n: found[n][0] / found[n][1] if found[n][1] else 0.0 for n in objective.step_means}
    return numbers


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


def vector(units: Tensor, sums: Tensor, metrics: Tensor, tokens: int) -> Tensor:
    """What a rank tells the others, float64: units [terms] of the global step, its own sums [terms] and metrics
    [2 x metrics + counts], its tokens."""
    return torch.cat([units, sums, metrics, units.new_tensor([tokens])])


def assemble(ranks: np.ndarray, objective: Objective) -> Assembled:
    """The result of a step from the vectors of all ranks, [ranks, values]. Units are everybody's: taken from one."""
    terms = objective.terms
    own = ranks[:, len(terms) :].sum(axis=0)
    values = [*ranks[0][: len(terms)].tolist(), *own[:-1].tolist()]
    return Assembled(reduced([assembled_sums(values, objective)], terms), int(own[-1]))


def assembled_sums(values: Sequence[float], objective: Objective) -> Sums:
    """Sums from a vector of units [terms], sums [terms], metrics [2 x metrics + counts], added up over the ranks
    already."""
    names = [term.name for term in objective.terms]
    count = len(names)
    units, sums, told = values[:count], values[count : 2 * count], values[2 * count :]
    metrics, counts = told[: 2 * len(objective.metrics)], told[2 * len(objective.metrics) :]
    return Sums(
        terms=dict(zip(names, sums, strict=True)),
        units=dict(zip(names, units, strict=True)),
        metrics=dict(zip(objective.metrics, zip(metrics[::2], metrics[1::2], strict=True), strict=True)),
        counts=tuple(counts),
    )
