"""What a worker is given: the driver's input, and where this process stands among the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from raysft.recipe.resolve import ResolvedRun
from raysft.recipe.schema import Recipe
from raysft.train.group import Group


@dataclass(frozen=True)
class AttemptInput:
    """What the driver sends to every worker; plain values only."""

    recipe: dict[str, Any]
    run: str
    tokenizer: str
    train_store: str | None
    """None: streamed."""
    eval_stores: dict[str, str]
    """{set: store} of what is evaluated in training."""
    num_replicas: int
    sync: Literal["step", "micro_batch"]
    token_flops: float
    square_flops: float
    total_steps: int
    steps_per_epoch: int | None
    fingerprints: dict[str, str]
    stream_cpus: int
    """CPUs that a task of the stream reserves."""
    memory_plan: str
    """What the planner expects a worker to need, for the error when it needs more."""
    profile_steps: int
    """Steps to trace; 0: none."""
    train_columns: str | None = None
    """Columns beside the training store; None: the objective asks for none."""
    eval_columns: dict[str, str] = field(default_factory=dict)
    """{set: columns beside its store}."""
    pause_step: int | None = None
    """Step to commit and end at, to go on later; the schedule is that of the whole run."""


@dataclass(frozen=True)
class WorkerContext:
    """Where this process stands."""

    job: AttemptInput
    recipe: Recipe
    group: Group
    device: torch.device

    @property
    def resolved(self) -> ResolvedRun:
        """The run as the driver resolved it."""
        job = self.job
        return ResolvedRun(
            recipe=self.recipe,
            num_workers=self.recipe.cluster.workers,
            num_replicas=job.num_replicas,
            sync=job.sync,
            token_flops=job.token_flops,
            square_flops=job.square_flops,
        )
