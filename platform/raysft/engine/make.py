"""Which engine a run gets. The one place that chooses, and that shares out the rows of a replica over its ranks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from raysft.engine.pipeline import PipelineEngine
from raysft.engine.zero import ZeroEngine
from raysft.model.isolation import check_isolation, refuse_leaks
from raysft.model.methods import base_model
from raysft.model.ulysses import SequenceGroup, use_ulysses_attention, whole_hidden
from raysft.objectives.module import ObjectiveModule
from raysft.recipe.resolve import ResolvedRun


def make_engine(
    module: ObjectiveModule, run: ResolvedRun, device: torch.device, restored: Mapping[str, Tensor] | None = None
) -> ZeroEngine | PipelineEngine:
    """The engine of the run's layout, from a checkpoint's tensors where there are any. Collective.

    Raises ModelError, on every rank.
    """
    if run.layout.sequence > 1:
        _share_rows(module, run)
    if run.layout.stages > 1:
        return PipelineEngine(module, run, device, restored)
    return ZeroEngine(module, run, device, restored)


def _share_rows(module: ObjectiveModule, run: ResolvedRun) -> None:
    """Each rank of a replica takes a part of its rows, and attention is checked again with all of them."""
    model = base_model(module.model)
    use_ulysses_attention(model)
    members = run.layout.groups("sequence")
    groups = [(ranks, dist.new_group(ranks)) for ranks in members]  # every rank makes every group
    ranks, group = next((ranks, group) for ranks, group in groups if dist.get_rank() in ranks)
    module.sequence = SequenceGroup(group, ranks.index(dist.get_rank()), len(ranks))
    hidden = partial(whole_hidden, sequence=module.sequence)
    packing = run.recipe.data.packing
    difference = check_isolation(model, model.config.get_text_config().vocab_size, packing=packing, hidden=hidden)
    refuse_leaks(model, difference, f"parallel.sequence = {len(ranks)}, data.packing = {packing}")
