"""What a metric of answers is, and the share of right answers, which most of them are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Mode = Literal["min", "max"]
"""Which way is better."""

Z95 = 1.959963984540054
"""Half the width of a 95% interval, in standard deviations of a normal distribution."""


@dataclass(frozen=True)
class Answer:
    """One prompt, what the model said to it, and what was to be said. Texts without special tokens."""

    prompt: str
    text: str
    reference: str


@dataclass(frozen=True)
class Estimate:
    """A value, and how sure it is."""

    value: float
    count: int
    """What it was taken over: answers, or target tokens."""
    low: float | None = None
    """End of the 95% interval; None: none is known."""
    high: float | None = None


class Metric(Protocol):
    """A number that answers have. Its functions are pure."""

    @property
    def name(self) -> str:
        """As recipes name it."""

    @property
    def title(self) -> str:
        """In a few words, for tables."""

    @property
    def better(self) -> Mode:
        """Which way is better."""

    def estimate(self, answers: Sequence[Answer]) -> Estimate:
        """The value over these answers, of which there is at least one."""

    def shown(self, value: float) -> str:
        """The value as tables write it."""


@dataclass(frozen=True)
class Share:
    """The share of answers that are right, 0 to 1, with Wilson's interval."""

    name: str
    title: str
    is_right: Callable[[Answer], bool]
    better: Mode = "max"

    def estimate(self, answers: Sequence[Answer]) -> Estimate:
        """See Metric."""
        right = sum(map(self.is_right, answers))
        return Estimate(right / len(answers), len(answers), *wilson(right, len(answers)))

    def shown(self, value: float) -> str:
        """See Metric."""
        return f"{value:.1%}"


def wilson(right: int, total: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927; Brown, Cai and DasGupta 2001): sound at 0, at 1 and of few, too."""
    share, z2 = right / total, Z95 * Z95
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)
