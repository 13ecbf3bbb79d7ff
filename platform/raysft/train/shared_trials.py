"""Trials as threads of one process: each is the ordinary worker, on one base model and with an engine of the gang."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from raysft.engine.rendezvous import Gang
from raysft.engine.shared_base import FusedEngine
from raysft.model.fast.shared_base import SharedBase
from raysft.model.methods import apply_method
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.resolve import ResolvedRun
from raysft.train.probe import Closable
from raysft.train.worker import Parts, load_base, train_worker
from raysft.train.worker_input import Place


class Crew:
    """The trials that train in this process."""

    def __init__(self, device: torch.device) -> None:
        self._gang = Gang(device)

    def member(self, trial: int) -> AbstractContextManager[None]:
        """Inside, this thread is a trial of the crew; only one thread runs at a time (engine/rendezvous.py)."""
        return self._gang.member(trial)

    def share_s(self, trial: int) -> float:
        """Seconds that a trial was a member for, each divided by the members there were."""
        return self._gang.share_s(trial)

    def train(self, trial: int, wire: dict[str, Any]) -> dict[str, Any]:
        """What train_worker() does, within member(trial)."""
        bases: list[SharedBase] = []

        def module(place: Place) -> ObjectiveModule:
            recipe = place.recipe
            bases.append(self._gang.base(_identity(place), _loader(place)))
            return ObjectiveModule(apply_method(bases[-1].blank(), recipe), make_objective(recipe))

        def engine(
            module: ObjectiveModule, run: ResolvedRun, device: torch.device, restored: Mapping[str, Tensor] | None
        ) -> Closable:
            return FusedEngine(module, run, device, restored, self._gang, (trial, bases[-1]))

        return train_worker(wire, Parts(module, engine))


def _loader(place: Place) -> Callable[[], SharedBase]:
    def load() -> SharedBase:
        model = load_base(place)
        if place.recipe.train.precision == "bf16":
            model.bfloat16()
        return SharedBase(model, packing=place.recipe.data.packing)

    return load


def _identity(place: Place) -> tuple[str, ...]:
    """What makes a base another one."""
    recipe = place.recipe
    fresh = recipe.seed if recipe.model.source == "random" else None
    train = recipe.train
    return (
        recipe.model.model_dump_json(),
        *map(str, (fresh, recipe.data.packing, train.precision, train.gradient_checkpointing)),
    )
