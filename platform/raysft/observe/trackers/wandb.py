"""W&B: files in the directory `wandb` of the run, without a network unless WANDB_MODE says `online`.

`wandb sync DIRECTORY` sends them later. Steps are a value of their own, since W&B takes no step twice.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from raysft.observe.trackers.base import Place, Point

PROJECT, MODE = "raysft", "WANDB_MODE"


class WeightsAndBiases:
    """See Tracker. A run that goes on has the same id."""

    def __init__(self, place: Place) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=place.name,
            id=hashlib.sha256(place.identity.encode()).hexdigest()[:16],
            dir=place.directory,
            config=dict(place.fields),
            mode="online" if os.environ.get(MODE) == "online" else "offline",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
            ),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, points: Sequence[Point]) -> None:
        """See Tracker."""
        for point in points:
            self._run.log({**point.values, "step": point.step, "at": point.at})

    def rewind(self, step: int) -> None:
        """See Tracker. What comes again has the same values: it stays."""

    def close(self, status: str) -> None:
        """See Tracker."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "finished" else 1)
