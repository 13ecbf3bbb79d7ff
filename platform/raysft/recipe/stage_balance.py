"""Layers on pipeline stages: consecutive parts of nearly the same cost. Pure; the stages and the planner use it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def balance(costs: Sequence[float], num_stages: int) -> list[range]:
    """Consecutive parts, none of them empty, whose largest sum is the smallest possible.

    Where that leaves a choice the first parts are short: first stages hold the activations of most micro-batches.
    """
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, (0,))}  # items taken -> (largest sum, borders)
    for left in reversed(range(num_stages)):
        best = {
            stop: min(
                (max(largest, sum(costs[start:stop])), (*borders, stop))
                for start, (largest, borders) in best.items()
                if start < stop
            )
            for stop in range(min(best) + 1, len(costs) - left + 1)
        }
    borders = best[len(costs)][1]
    return [range(start, stop) for start, stop in pairwise(borders)]
