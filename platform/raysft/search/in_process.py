"""A run's one worker in this very process, which has imported everything and trains one run after another.

For trials of a search: workers of their own would pay seconds of imports for each. What a death of the process means
is the caller's to decide; nothing is tried again here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from raysft.recipe.schema import Recipe
from raysft.train.state import Outcome
from raysft.train.watch import stop_requests
from raysft.train.worker import train_worker
from raysft.train.worker_input import AttemptInput


def run_here(
    run: str,
    recipe: Recipe,
    make_input: Callable[[Recipe], AttemptInput],
    train: Callable[[dict[str, Any]], dict[str, Any]] = train_worker,
) -> Outcome:
    """Train until the run ends or is asked to stop; what attempts.run_attempts() does on workers of their own."""
    _alone(recipe)
    stop_requests.clear(run)
    while True:
        outcome = Outcome(**train(asdict(make_input(recipe))))
        if outcome.status != "rollback":
            return outcome


def _alone(recipe: Recipe) -> None:
    """A process group of one, once."""
    if dist.is_initialized():
        return
    os.environ.update({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"})
    backend = "nccl" if recipe.cluster.gpus_per_worker else "gloo"
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
