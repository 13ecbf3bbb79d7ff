"""What the ranks tell each other along with a step, besides its sums. The engine passes the numbers on unread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raysft.engine.protocol import StepCosts


@dataclass(frozen=True)
class Aside:
    """What one rank has to say."""

    data_wait_s: float
    """Time that it waited for its micro-batches."""
    notice: int
    """What it was told from outside (watch/stop_requests.py)."""

    def numbers(self) -> tuple[float, float]:
        """As an engine takes it."""
        return self.data_wait_s, float(self.notice)


@dataclass(frozen=True)
class Heard:
    """What all ranks said, and where the time of the step went; the same on every rank."""

    data_wait_s: float
    """Wait of the rank that came to the update last: the others waited for it."""
    forward_backward_s: float
    """Forward and backward passes of the same rank; with the communication inside them."""
    notice: int
    """The most urgent thing that a rank was told."""
    rank_s: tuple[float, ...]
    """Each rank's wait for data and its forward passes, in which (ZeRO 0-2) it waits for nobody."""


def heard(asides: Sequence[Sequence[float]], costs: StepCosts) -> Heard:
    """What the numbers of all ranks and the costs of the step say together. Both in the order of the ranks."""
    waits = [wait for wait, _ in asides]
    last = max(range(len(waits)), key=lambda rank: waits[rank] + costs.passes_s[rank])
    return Heard(
        data_wait_s=waits[last],
        forward_backward_s=costs.passes_s[last],
        notice=int(max(notice for _, notice in asides)),
        rank_s=tuple(wait + forward for wait, forward in zip(waits, costs.forward_s, strict=True)),
    )
