"""A run's one worker in this process: attempts until the run ends, never one more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from fakes import make_recipe

from raysft.recipe.schema import Recipe
from raysft.search.in_process import run_here
from raysft.train.state import Outcome
from raysft.train.watch import stop_requests
from raysft.train.worker_input import AttemptInput


def attempt(recipe: Recipe) -> AttemptInput:
    return AttemptInput(
        recipe=recipe.model_dump(mode="json"),
        run="r",
        tokenizer="t",
        train_store="s",
        eval_stores={},
        num_replicas=1,
        sync="step",
        token_flops=1.0,
        square_flops=1.0,
        total_steps=2,
        steps_per_epoch=2,
        fingerprints={},
        stream_cpus=0,
        memory_plan="",
        profile_steps=0,
    )


@pytest.fixture(autouse=True)
def no_group() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("end", ["finished", "interrupted", "stopped", "failed"])
def test_a_rollback_begins_another_attempt_and_all_else_is_the_end(tmp_path: Path, end: str) -> None:
    ends, groups = ["rollback", "rollback", end, "never asked"], []

    def train(fields: dict[str, Any]) -> dict[str, Any]:
        assert json.loads(json.dumps(fields)) == fields, "plain values, as a worker is sent them"
        assert AttemptInput(**fields) == attempt(recipe)
        groups.append((dist.get_rank(), dist.get_world_size()))
        return Outcome(ends.pop(0), 5 - len(ends)).to_json()

    recipe = make_recipe()
    found = run_here(str(tmp_path), recipe, attempt, train)
    assert asdict(found) == {"status": end, "step": 4, "reason": "", "error": None}
    assert groups == [(0, 1)] * 3, "a group of one, made once"


def test_an_older_request_to_stop_does_not_count(tmp_path: Path) -> None:
    stop_requests.request(str(tmp_path), stop_requests.Notice.STOP)

    def train(fields: dict[str, Any]) -> dict[str, Any]:
        assert stop_requests.pending(str(tmp_path)) is stop_requests.Notice.NONE
        return Outcome("finished", 2).to_json()

    assert run_here(str(tmp_path), make_recipe(), attempt, train).status == "finished"


def test_what_the_worker_raises_is_the_callers(tmp_path: Path) -> None:
    def train(fields: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_here(str(tmp_path), make_recipe(), attempt, train)
