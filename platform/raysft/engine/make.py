"""Which engine a run gets. The one place that chooses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raysft.engine.pipeline import PipelineEngine
from raysft.engine.zero import ZeroEngine
from raysft.objectives.module import ObjectiveModule
from raysft.recipe.resolve import ResolvedRun


def make_engine(
    module: ObjectiveModule, run: ResolvedRun, device: torch.device, restored: Mapping[str, Tensor] | None = None
) -> ZeroEngine | PipelineEngine:
    """The engine of the run's layout, from a checkpoint's tensors where there are any. Collective."""
    if run.layout.stages > 1:
        return PipelineEngine(module, run, device, restored)
    return ZeroEngine(module, run, device, restored)
