"""A worker dies by SIGKILL between two commits: the run restarts by itself, and nothing shows in the result.

Once with a token store, and once streamed: there the undisturbed run has a store with the order `windowed`, so the
same bits at the end also say that both modes give the same rows in the same order.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from small import make_recipe
from whole_state import tensors_of

from raysft import storage
from raysft.data.store.parts import TokenStore
from raysft.recipe.schema import Recipe
from raysft.run.remote_tasks import newest_checkpoint
from raysft.run.run import RunResult, run_training
from raysft.train.commits.lineage import read_attempts
from raysft.train.history.account import read_account
from raysft.train.history.records import read_ledger, read_metrics

EVERY = 12
WALL_S: dict[str, float] = {}
"""{run: what its command took}."""


def recipe(directory: Path, name: str, **data: object) -> Recipe:
    return make_recipe(
        directory,
        count=900,
        name=name,
        **data,
        train__epochs=2,
        train__rows_per_step=16,
        train__micro_batch_rows=4,
        checkpoint__every_steps=EVERY,
        method={"kind": "lora", "rank": 4, "dropout": 0.1},  # dropout: its seeds must survive the restart too
    )


def kill_between_commits(run: Path, killed: list[int]) -> None:
    """SIGKILL rank 1 of the first attempt when the metrics show a step strictly between two commits."""
    metrics, ledger = run / "metrics" / "attempt-0001.jsonl", run / "ledger" / "attempt-0001" / "rank-00001.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        if steps and EVERY + 2 <= steps[-1] < 2 * EVERY - 3:
            pid = json.loads(ledger.read_text().splitlines()[0])["pid"]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return
        time.sleep(0.005)


@pytest.fixture(scope="module", params=[pytest.param("prepared", marks=pytest.mark.full), "stream"])
def runs(
    request: pytest.FixtureRequest, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunResult, RunResult]:
    directory = tmp_path_factory.mktemp("kill")
    streamed = request.param == "stream"
    calm = run_training(recipe(directory, "calm", data__order="windowed" if streamed else "global"))
    killed: list[int] = []
    run = Path(calm.run).with_name("killed")
    killer = threading.Thread(target=kill_between_commits, args=(run, killed))
    killer.start()
    stream = {"data__mode": "stream", "data__order": "windowed", "train__max_steps": calm.steps}
    started = time.monotonic()
    disturbed = run_training(recipe(directory, "killed", **(stream if streamed else {})))
    WALL_S[disturbed.run] = time.monotonic() - started
    killer.join()
    assert len(killed) == 1, "the killer found no step between two commits"
    return calm, disturbed


def test_steps_were_replayed(runs: tuple[RunResult, RunResult]) -> None:
    calm, disturbed = runs
    assert len(read_attempts(calm.run)) == 1
    first, second = read_attempts(disturbed.run)
    assert second.parent is not None
    assert second.parent.attempt == first.number
    assert second.parent.step == EVERY
    lines = storage.read_json_lines(storage.join(disturbed.run, "metrics", "attempt-0001.jsonl"))
    reached = max(line["step"] for line in lines)
    assert EVERY < reached < 2 * EVERY


def test_final_weights_and_moments_are_bit_identical(runs: tuple[RunResult, RunResult]) -> None:
    calm, disturbed = (tensors_of(newest_checkpoint(result.run)) for result in runs)
    assert calm.keys() == disturbed.keys()
    assert len(calm) > 10
    for name, tensor in calm.items():
        assert torch.equal(tensor, disturbed[name]), name
    assert any(name.startswith("exp_avg_sq:") and tensor.abs().max() > 0 for name, tensor in calm.items())


def test_each_sample_was_consumed_once_per_epoch(runs: tuple[RunResult, RunResult]) -> None:
    for result in runs:
        ledger = read_ledger(result.run)
        assert list(ledger) == list(range(1, result.steps + 1))
        (store,) = Path(result.run).parents[1].glob("tokens/*/manifest.json")
        opened = TokenStore.open(str(store.parent))
        samples = {
            int(i) for row in opened.read_rows(range(opened.num_rows)) for i in row.segment_fields["sample_id"]
        }
        assert len(samples) == 900
        half = result.steps // 2
        for steps in (range(1, half + 1), range(half + 1, result.steps + 1)):
            counts = Counter(sample for step in steps for sample in ledger[step])
            assert set(counts) == samples
            assert set(counts.values()) == {1}
    calm, disturbed = (read_ledger(result.run) for result in runs)
    assert {step: sorted(ids) for step, ids in calm.items()} == {step: sorted(ids) for step, ids in disturbed.items()}


def test_every_second_is_accounted_for(runs: tuple[RunResult, RunResult]) -> None:
    calm, disturbed = runs
    assert read_account(calm.run).costs == ()
    account = read_account(disturbed.run)
    assert sum(account.seconds.values()) == pytest.approx(WALL_S[disturbed.run], rel=0.01)
    (cost,) = account.costs
    lines = list(storage.read_json_lines(storage.join(disturbed.run, "metrics", "attempt-0001.jsonl")))
    replayed = [line for line in lines if line["kind"] == "step" and line["step"] > EVERY]
    assert (cost.incident.kind, cost.incident.attempt) == ("worker", 1)
    assert cost.steps_lost == len(replayed) > 0
    assert account.seconds["lost"] == cost.lost_s >= 0.9 * sum(line["step_s"] for line in replayed)
    assert cost.back_after_s is not None
    assert account.seconds["recovery"] <= cost.back_after_s <= account.seconds["recovery"] + 5
    assert cost.detected_after_s is not None
    assert cost.detected_after_s < cost.back_after_s
    steps = [line for line in read_metrics(disturbed.run) if line["kind"] == "step"]
    worked = sum(line["step_s"] * (1 - line["data_wait_share"]) for line in steps)
    assert worked * 0.9 <= account.seconds["compute"] <= worked * 1.5  # and what lies between two steps
