"""TensorBoard's event files, in the directory `tensorboard` of the run; written by tensorboardX, which Ray brings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from raysft.observe.trackers.base import Place, Point


class TensorBoard:
    """See Tracker. After a restart what is behind the step that the run went on from is left out by its reader."""

    def __init__(self, place: Place) -> None:
        self._directory, self._files = os.path.join(place.directory, "tensorboard"), 0
        self._writer = self._open(None)
        rows = [f"|{name}|{value}|" for name, value in place.fields.items()]
        self._writer.add_text("recipe", "\n".join(["|field|value|", "|-|-|", *rows]), 0)

    def log(self, points: Sequence[Point]) -> None:
        """See Tracker."""
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.step, walltime=point.at)
        self._writer.flush()

    def rewind(self, step: int) -> None:
        """See Tracker."""
        self._writer.close()
        self._writer = self._open(step + 1)

    def close(self, status: str) -> None:
        """See Tracker."""
        self._writer.add_text("status", status, 0)
        self._writer.close()

    def _open(self, purge_step: int | None) -> Any:
        from tensorboardX import SummaryWriter

        self._files += 1  # two that begin in the same second would have the same name
        suffix = f".{self._files:04d}"
        return SummaryWriter(self._directory, purge_step=purge_step, flush_secs=10, filename_suffix=suffix)
