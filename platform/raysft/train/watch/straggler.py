"""Finds ranks that take longer than the others for what each does alone. They are named; nothing is restarted.

Compared is the time in which a rank waits for nobody (StepInfo.rank_s). Where the forward pass itself communicates
(ZeRO 3, tensor and sequence parallel) a slow rank slows its peers there as well: only replicas are told apart under
ZeRO 0-2, nobody under ZeRO 3; in a pipeline only a rank that waits for data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from raysft.train.hooks import GO_ON
from raysft.train.state import Decision, StepInfo

FACTOR = 1.5
"""A rank is slow when it takes so many times as long as the others' median,"""
LEAST_S = 0.03
"""and longer by at least this: below that, a busy machine's noise."""


@dataclass(frozen=True)
class Slow:
    """A rank that was slow over a window of steps."""

    rank: int
    own_s: float
    """Its median time for a step."""
    others_s: float
    """The median of the other ranks' medians."""


def slow_ranks(steps: Sequence[Sequence[float]]) -> list[Slow]:
    """Ranks that are slow in half of the steps or more (pure). steps: seconds, [steps][ranks]."""
    own = np.median(np.asarray(steps, dtype=np.float64), axis=0)  # [ranks]
    if len(own) < 2:
        return []
    others = [float(np.median(np.delete(own, rank))) for rank in range(len(own))]
    return [
        Slow(rank, float(mine), rest)
        for rank, (mine, rest) in enumerate(zip(own, others, strict=True))
        if mine > FACTOR * rest and mine - rest > LEAST_S
    ]


class StragglerWatch:
    """A hook that looks at every WINDOW steps and tells each slow rank once."""

    WINDOW = 16

    def __init__(self, tell: Callable[[Slow, int], None]) -> None:
        """tell(slow rank, steps done)."""
        self._tell, self._window, self._told = tell, list[tuple[float, ...]](), set[int]()

    def __call__(self, info: StepInfo) -> tuple[Decision, str]:
        """See Hook."""
        self._window.append(info.rank_s)
        if len(self._window) == self.WINDOW:
            for slow in slow_ranks(self._window):
                if slow.rank not in self._told:
                    self._told.add(slow.rank)
                    self._tell(slow, info.state.step)
            self._window.clear()
        return GO_ON
