"""Which engine a run gets, and how the ranks of a replica share its layers and rows. The one place that chooses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from raysft.engine.fill import compute
from raysft.engine.parameters import set_weights
from raysft.engine.pipeline import PipelineEngine
from raysft.engine.slices import Saved
from raysft.engine.tensor import WHOLE, Shards, cut_layers, forget_groups
from raysft.engine.together import on_every_rank
from raysft.engine.zero import ZeroEngine
from raysft.model.fast.loss import hidden_states
from raysft.model.fast.start_check import check_isolation, log_probs_alone, refuse_leaks
from raysft.model.fast.ulysses import SequenceGroup, use_ulysses_attention, whole_hidden
from raysft.model.methods import base_model, kept_parameters
from raysft.model.shape import read_shape
from raysft.objectives.module import ObjectiveModule
from raysft.recipe.layout import Layout
from raysft.recipe.resolve import ResolvedRun


def make_engine(
    module: ObjectiveModule, run: ResolvedRun, device: torch.device, restored: Saved | None = None
) -> ZeroEngine | PipelineEngine:
    """The engine of the run's layout, from a checkpoint's state where there is one. Collective.

    Raises ModelError, on every rank.
    """
    forget_groups()
    module.kept = kept_tensors(module, restored)
    if module.unread is not None and restored is None:
        compute(module.unread)
    if run.layout.stages > 1:
        return PipelineEngine(module, run, device, restored)
    shards = _share_out(module, run) if run.layout.tensor * run.layout.sequence > 1 else WHOLE
    return ZeroEngine(module, run, device, restored, shards)


def kept_tensors(module: ObjectiveModule, restored: Saved | None) -> dict[str, Tensor]:
    """What a commit holds besides what is trained, whole, from the commit where there is one. Collective.

    Before any of it is cut or partitioned: rank 0 gives all of it.
    """
    kept = kept_parameters(module.model)
    if restored is not None:
        on_every_rank(partial(set_weights, kept, restored, {}))
    return {f"weight:{name}": p.detach().to("cpu", torch.float32, copy=True) for name, p in kept.items()}


def _share_out(module: ObjectiveModule, run: ResolvedRun) -> Shards:
    """Each rank of a replica takes a part of its layers and of its rows. All of them together are then checked.

    A model whose weights are still to be read is not asked, but its twin, which is cut like it.
    """
    layout, packing = run.layout, run.recipe.data.packing
    asked = base_model(module.model) if module.unread is None else module.unread.twin
    shape, vocab_size = read_shape(run.recipe), asked.config.get_text_config().vocab_size
    hidden, shards = hidden_states, WHOLE
    alone = log_probs_alone(asked, vocab_size)
    if layout.tensor > 1:
        shards = cut_layers(module, shape, layout.tensor)
        if module.unread is not None:
            cut_layers(asked, replace(shape, num_layers=asked.config.num_hidden_layers), layout.tensor)
    if layout.sequence > 1:
        for model in (base_model(module.model), asked):
            use_ulysses_attention(model)
        module.sequence = _sequence_group(layout)
        hidden = partial(whole_hidden, sequence=module.sequence)
    difference = check_isolation(asked, vocab_size, packing=packing, hidden=hidden, alone=alone)
    axes = f"parallel.tensor = {layout.tensor}, parallel.sequence = {layout.sequence}"
    refuse_leaks(asked, difference, f"{axes}, data.packing = {packing}")
    return shards


def _sequence_group(layout: Layout) -> SequenceGroup:
    groups = [(ranks, dist.new_group(ranks)) for ranks in layout.groups("sequence")]  # every rank makes every group
    ranks, group = next((ranks, group) for ranks, group in groups if dist.get_rank() in ranks)
    return SequenceGroup(group, ranks.index(dist.get_rank()), len(ranks))
