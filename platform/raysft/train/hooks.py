"""What is optional in training. A hook gets a frozen StepInfo and returns a decision; the loop acts.

Hooks may call collectives, so their order is the same on every rank.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median
from typing import Protocol

from raysft.train.state import Decision, StepInfo
from raysft.train.watch.stop_requests import Notice


class Hook(Protocol):
    """Called after each optimizer step on every rank. Returns (decision, reason)."""

    def __call__(self, info: StepInfo) -> tuple[Decision, str]: ...


GO_ON = (Decision.CONTINUE, "")


def every(steps: int, act: Callable[[StepInfo], None], *, and_at: int | None = None) -> Hook:
    """Do something after each `steps` steps, and after step `and_at`."""

    def hook(info: StepInfo) -> tuple[Decision, str]:
        if info.state.step % steps == 0 or info.state.step == and_at:
            act(info)
        return GO_ON

    return hook


def checkpoint_every(steps: int) -> Hook:
    """Ask for a commit after each `steps` steps."""

    def hook(info: StepInfo) -> tuple[Decision, str]:
        return (Decision.CHECKPOINT, "due") if info.state.step % steps == 0 else GO_ON

    return hook


def end_on_notice(commit_steps: int) -> Hook:
    """End the attempt when it is asked to: at once, or, for another number of workers, when a commit is due."""

    def hook(info: StepInfo) -> tuple[Decision, str]:
        if info.notice > Notice.RESIZE or (info.notice and info.state.step % commit_steps == 0):
            return Decision.INTERRUPT, Notice(info.notice).name.lower()
        return GO_ON

    return hook


def pause_at(step: int) -> Hook:
    """Commit after this step and end the attempt: whoever planned it goes on later."""

    def hook(info: StepInfo) -> tuple[Decision, str]:
        return (Decision.INTERRUPT, "stop") if info.state.step == step else GO_ON

    return hook


def finish_on_forgetting(
    limit_nats: float, untrained: Mapping[str, float], measured: Mapping[int, Mapping[str, float]]
) -> Hook:
    """End the run with the first evaluation that finds a guarded set more than `limit_nats` above its loss before.

    untrained: {SET/MEASURE: loss at step 0}, in nats per target token. measured: {step: what was measured}, filled by
    a hook before this one. A loss that is not finite has forgotten everything.
    """

    def hook(info: StepInfo) -> tuple[Decision, str]:
        found = measured.get(info.state.step, {})
        lost = {name: found[name] - before for name, before in untrained.items() if name in found}
        name = max(lost, key=lambda one: math.inf if math.isnan(lost[one]) else lost[one], default=None)
        if name is None or lost[name] <= limit_nats:
            return GO_ON
        what = f"{name} rose by {lost[name]:.4f} nats, from {untrained[name]:.4f} to {found[name]:.4f}"
        return Decision.FINISH, f"{what}: more than evaluate.stop_at_forgetting_nats {limit_nats:g}"

    return hook


class SpikeGuard:
    """A loss over `factor` times the median of the last WINDOW steps rolls the run back."""

    WINDOW, AT_LEAST = 32, 8

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._losses: deque[float] = deque(maxlen=self.WINDOW)

    def __call__(self, info: StepInfo) -> tuple[Decision, str]:
        """See Hook."""
        if info.skipped:
            return GO_ON
        usual = median(self._losses) if len(self._losses) >= self.AT_LEAST else math.inf
        self._losses.append(info.loss)
        if info.loss <= self._factor * usual:
            return GO_ON
        return Decision.ROLLBACK, f"loss {info.loss:.4g} after a median of {usual:.4g}"


class NonFiniteGuard:
    """Skipped steps are tolerated one at a time; `limit` of them in a row stop the run."""

    def __init__(self, limit: int = 5) -> None:
        self._limit, self._in_a_row = limit, 0

    def __call__(self, info: StepInfo) -> tuple[Decision, str]:
        """See Hook."""
        self._in_a_row = self._in_a_row + 1 if info.skipped else 0
        if self._in_a_row < self._limit:
            return GO_ON
        return Decision.STOP, f"gradients were not finite in {self._limit} steps in a row"
