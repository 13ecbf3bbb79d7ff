"""A hook that traces some steps of rank 0 with torch's profiler, as Chrome's JSON in the run directory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from raysft import storage
from raysft.train.history.paths import RunPaths
from raysft.train.hooks import GO_ON
from raysft.train.state import Decision, StepInfo

WARMUP_STEPS = 2
"""Steps before the trace: they allocate, and the profiler itself is slow at first."""


class Profile:
    """Traces steps WARMUP_STEPS + 1 .. WARMUP_STEPS + steps of an attempt; fewer when it ends before."""

    def __init__(self, run: str, attempt: int, steps: int) -> None:
        self._location = RunPaths(run).trace(attempt)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profiler = torch.profiler.profile(activities=activities, record_shapes=True)
        self._left = WARMUP_STEPS + steps
        self._wanted = steps

    def __call__(self, info: StepInfo) -> tuple[Decision, str]:
        """See Hook."""
        self._left -= 1
        if self._left == self._wanted:
            self._profiler.start()
        elif self._left == 0:
            self.close()
        return GO_ON

    def close(self) -> None:
        """Write what was traced."""
        if not 0 <= self._left < self._wanted:
            return
        self._left = -1
        self._profiler.stop()
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "trace.json"
            self._profiler.export_chrome_trace(str(path))
            storage.write_bytes(self._location, path.read_bytes())
