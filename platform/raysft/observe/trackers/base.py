"""What a tracker is: something that is told points of curves. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Place:
    """Which run, and where its tracker may write."""

    name: str
    identity: str
    """The same for the same run after a restart, another for another run."""
    directory: str
    """The run's own; empty where that is no directory of this machine."""
    storage: str
    """That of all runs; likewise."""
    fields: Mapping[str, Any]
    """{dotted field: value} of the recipe, without secrets."""


@dataclass(frozen=True)
class Point:
    """What was measured at one step."""

    step: int
    at: float
    """Unix time, s."""
    values: Mapping[str, float]
    """By name; finite or not."""


class Tracker(Protocol):
    """Told by one thread. May raise anything: the run goes on without it."""

    def log(self, points: Sequence[Point]) -> None:
        """New points, in order."""

    def rewind(self, step: int) -> None:
        """The run goes on from this step: later points, if there were any, come again."""

    def close(self, status: str) -> None:
        """The run has ended: finished, stopped or failed."""
