"""Trials as threads of one process: each is the ordinary worker, on one base model, with an engine of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from raysft.engine.rendezvous import Rendezvous
from raysft.engine.shared_base import FusedEngine
from raysft.engine.slices import Saved
from raysft.model.fast.shared_base import SharedBase
from raysft.model.methods import apply_method
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.resolve import ResolvedRun
from raysft.train.assembly import load_base
from raysft.train.probe import Closable
from raysft.train.worker import Parts, train_worker
from raysft.train.worker_input import WorkerContext


class SharedTrials:
    """The trials that train in this process."""

    def __init__(self, device: torch.device) -> None:
        self._rendezvous = Rendezvous(device)

    def member(self, trial: int) -> AbstractContextManager[None]:
        """Inside, this thread is one of the trials; only one thread runs at a time (engine/rendezvous.py)."""
        return self._rendezvous.member(trial)

    def share_s(self, trial: int) -> float:
        """Seconds that a trial was a member for, each divided by the members there were."""
        return self._rendezvous.share_s(trial)

    def train(self, trial: int, fields: dict[str, Any]) -> dict[str, Any]:
        """What train_worker() does, within member(trial)."""
        bases: list[SharedBase] = []

        def module(context: WorkerContext) -> ObjectiveModule:
            recipe = context.recipe
            bases.append(self._rendezvous.base(_identity(context), _loader(context)))
            found = ObjectiveModule(apply_method(bases[-1].blank(), recipe), make_objective(recipe))
            found.total_steps = context.job.total_steps
            return found

        def engine(
            module: ObjectiveModule, run: ResolvedRun, device: torch.device, restored: Saved | None
        ) -> Closable:
            return FusedEngine(module, run, device, restored, self._rendezvous, (trial, bases[-1]))

        return train_worker(fields, Parts(module, engine))


def _loader(context: WorkerContext) -> Callable[[], SharedBase]:
    def load() -> SharedBase:
        model = load_base(context)
        if context.recipe.train.precision == "bf16":
            model.bfloat16()
        return SharedBase(model, packing=context.recipe.data.packing)

    return load


def _identity(context: WorkerContext) -> tuple[str, ...]:
    """What makes a base another one."""
    recipe = context.recipe
    fresh = recipe.seed if recipe.model.source == "random" else None
    train = recipe.train
    return (
        recipe.model.model_dump_json(),
        *map(str, (fresh, recipe.data.packing, train.precision, train.gradient_checkpointing)),
    )
