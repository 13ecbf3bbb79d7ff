"""What a worker is given: plain values that cross to it, and the run as the driver resolved it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch
from fakes import LLAMA, FakeGroup, make_recipe

from raysft.model.facts import read_facts
from raysft.recipe.load import parse_recipe
from raysft.recipe.resolve import resolve
from raysft.train.worker_input import AttemptInput, WorkerContext


def test_the_run_is_what_the_driver_resolved() -> None:
    recipe = make_recipe(
        model={"config": {**LLAMA, "vocab_size": 99}},
        cluster={"workers": 4},
        train={"rows_per_step": 8},
        parallel={"zero": 1, "tensor": 2},
    )
    run = resolve(recipe, read_facts(recipe), None)
    sent: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        **{"run": "r", "tokenizer": "t", "train_store": None, "eval_stores": {}, "memory_plan": "1 GiB"},
        **{"num_replicas": run.num_replicas, "sync": run.sync, "total_steps": 5, "steps_per_epoch": None},
        **{"token_flops": run.token_flops, "square_flops": run.square_flops, "fingerprints": {"data": "d"}},
        **{"stream_cpus": 1, "profile_steps": 0},
    }
    job = AttemptInput(**json.loads(json.dumps(sent)))
    assert asdict(job) == sent | {"train_columns": None, "eval_columns": {}, "pause_step": None}
    context = WorkerContext(job, parse_recipe(job.recipe), FakeGroup(1, 4), torch.device("cpu"))
    assert context.resolved == run
    assert context.resolved.layout == run.layout
