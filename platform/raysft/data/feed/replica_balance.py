"""Equal work: which row of a step goes to which replica and micro-batch, and which rows share a step. Pure numpy.

Rows equally full of tokens cost unequal time, because attention costs the sum of their squared segment lengths:
FLOPs = token_flops x tokens + square_flops x squares (recipe/resolve.py has both factors and their source).

When do replicas wait for each other? (`sync`)
  step         ZeRO 0 and 1 reduce gradients once per step: a step lasts as long as the largest SUM of a replica.
  micro_batch  ZeRO 2 and 3 and pipelines meet in every micro-batch: a step lasts the sum over the micro-batch
               indices of the largest micro-batch of each index.
The first asks for equal sums, which hardly any set of rows refuses. The second asks for 64 like rows at one index on
64 replicas, which a random step does not hold: `arrange` makes steps that do, by stratified sampling, without
knowing how many replicas there are.

All sums are of integers: ranks on unlike processors must agree exactly, and float sums depend on vector width.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Sync = Literal["step", "micro_batch"]
Indices = NDArray[np.int64]

POOL_STEPS = 8
"""Steps whose rows `arrange` exchanges."""
STRATA = 8
"""Layers of cost of which each step gets its share; a part of a layer is one micro-batch index, or several."""

_TOLERANCE = 1e-3
_MAX_SWAPS = 256


def assign(costs: NDArray[np.float64], num_replicas: int, micro_batch_rows: int, sync: Sync) -> Indices:
    """The rows (at least one) of a step by place, int64 [num_replicas, num_micro, micro_batch_rows]; -1: none.

    Rows meet in micro-batches first, by their costs alone, so that a micro-batch holds the same rows whatever the
    number of replicas. Then micro-batches go to replicas. Every replica gets the same number of them, its dearest
    first, empty ones last.
    """
    units = _integers(costs)
    num_batches = math.ceil(len(units) / micro_batch_rows)
    num_micro = math.ceil(num_batches / num_replicas)
    batches = _even(units, num_batches, micro_batch_rows)
    sums = np.where(batches < 0, 0, units[batches]).sum(axis=1)
    if sync == "step":
        places = _even(sums, num_replicas, num_micro)
    else:
        places = _snake(sums, num_micro, num_replicas, turn=False).T
    keys = np.where(places < 0, np.iinfo(np.int64).max, -sums[places])  # dear ones first, empty ones last
    places = np.take_along_axis(places, np.argsort(keys, axis=1, kind="stable"), axis=1)
    return np.where(places[..., None] < 0, -1, batches[places])


def numbers(assigned: Indices) -> Indices:
    """The number of every micro-batch of `assign` in the step, int64 [num_replicas, num_micro]: by the first of its
    rows in the plan, empty ones last. A micro-batch keeps its number when the number of replicas changes."""
    first = np.where(assigned < 0, np.iinfo(np.int64).max, assigned).min(axis=2)
    ranks = np.empty(first.size, dtype=np.int64)
    ranks[np.argsort(first, axis=None, kind="stable")] = np.arange(first.size)
    return ranks.reshape(first.shape)


def arrange(order: Indices, squares: NDArray[np.int64], rows_per_step: int, taken: int = 0) -> Indices:
    """The rows `order` (shuffled), exchanged between steps so that each step can be split evenly.

    `squares[i]` belongs to row i of the store; `taken` rows of the first step came before these rows. The rows of
    POOL_STEPS whole steps are sorted by squares and cut into STRATA layers; each step gets one run of neighbours from
    every layer. So a step has the mix of all steps, and holds like rows for every micro-batch index. The
    places of the runs come from the shuffle; rows that make no whole step stay where they are.
    """
    done = order.copy()
    start = -taken % rows_per_step
    while (steps := min(POOL_STEPS, (len(order) - start) // rows_per_step)) > 0:
        end = start + steps * rows_per_step
        pool = order[start:end]
        by_cost = np.argsort(-squares[pool], kind="stable")
        places: list[Indices] = [np.zeros((steps, 0), dtype=np.int64)]
        for borders in np.array_split(np.arange(rows_per_step), STRATA):
            layer = by_cost[: steps * len(borders)].reshape(steps, len(borders))
            by_cost = by_cost[steps * len(borders) :]
            if len(borders):
                places.append(layer[np.argsort(layer.min(axis=1), kind="stable")])
        done[start:end] = pool[np.sort(np.concatenate(places, axis=1), axis=1).ravel()]
        start = end
    return done


def _integers(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Costs in units of 2^-30 of the largest."""
    largest = float(costs.max()) or 1.0
    return np.rint(costs / largest * 2**30).astype(np.int64)


def _snake(units: NDArray[np.int64], groups: int, size: int, *, turn: bool) -> Indices:
    """Things by falling cost, int64 [groups, size], padded with -1. turn: dealt to and fro; else in sorted runs."""
    order = np.full(groups * size, -1, dtype=np.int64)
    order[: len(units)] = np.argsort(-units, kind="stable")
    if not turn:
        return order.reshape(groups, size)
    dealt = order.reshape(size, groups)
    dealt[1::2] = dealt[1::2, ::-1]
    return dealt.T.copy()


def _even(units: NDArray[np.int64], groups: int, size: int) -> Indices:
    """Groups of at most `size` things with equal sums: dealt to and fro, then the best swaps with the dearest."""
    members = _snake(units, groups, size, turn=True)
    values = np.where(members < 0, 0, units[members])
    sums = values.sum(axis=1)
    enough = int(sums.sum() / groups * (1 + _TOLERANCE))
    for _ in range(_MAX_SWAPS if size > 1 else 0):
        dearest = int(sums.argmax())
        if sums[dearest] <= enough:
            break
        moved = values[dearest][:, None, None] - values[None]  # [own member, other group, its member]
        after = np.maximum(sums[dearest] - moved, sums[None, :, None] + moved)
        after[:, dearest] = np.iinfo(np.int64).max
        own, other, its = np.unravel_index(int(after.argmin()), after.shape)
        if after[own, other, its] >= sums[dearest]:
            break
        gain = moved[own, other, its]
        members[dearest, own], members[other, its] = members[other, its], members[dearest, own]
        values[dearest, own], values[other, its] = values[other, its], values[dearest, own]
        sums[dearest] -= gain
        sums[other] += gain
    return members
