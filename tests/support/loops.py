"""The loop with an engine that only pretends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fakes import FakeBatch, FakeEngine

from raysft.train.hooks import Hook
from raysft.train.loop import train
from raysft.train.state import Outcome, TrainState


def run(
    engine: FakeEngine, hooks: Sequence[Hook], *, start: int = 0, total: int = 10, **more: Any
) -> tuple[Outcome, list[TrainState]]:
    saved: list[TrainState] = []
    outcome = train(
        engine,
        lambda step: FakeBatch(),
        hooks,
        TrainState(step=start),
        total_steps=total,
        learning_rate=lambda step: 0.1 * (step + 1),
        save=saved.append,
        **more,
    )
    return outcome, saved
