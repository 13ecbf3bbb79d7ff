"""What a worker is given, without a driver: a small run in a directory."""

from __future__ import annotations

from typing import Any

import torch
from fakes import LLAMA, FakeGroup, make_recipe

from raysft.model.facts import read_facts
from raysft.recipe.resolve import resolve
from raysft.train.worker_input import AttemptInput, WorkerContext


def make_context(run: str, group: FakeGroup, *, sections: dict[str, Any] | None = None, **job: Any) -> WorkerContext:
    """Of a rank of this run. sections: of its recipe; job: fields of the driver's input."""
    small = {"model": {"config": {**LLAMA, "vocab_size": 900}}, "train": {"rows_per_step": 2}}
    recipe = make_recipe(**(small | (sections or {})))
    resolved = resolve(recipe, read_facts(recipe), None)
    plain: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "run": run,
        "tokenizer": "t",
        "train_store": None,
        "eval_stores": {},
        "num_replicas": resolved.num_replicas,
        "sync": resolved.sync,
        "token_flops": resolved.token_flops,
        "square_flops": resolved.square_flops,
        "total_steps": 6,
        "steps_per_epoch": 3,
        "fingerprints": {},
        "stream_cpus": 0,
        "memory_plan": "1 GiB",
        "profile_steps": 0,
    }
    return WorkerContext(AttemptInput(**(plain | job)), recipe, group, torch.device("cpu"))
