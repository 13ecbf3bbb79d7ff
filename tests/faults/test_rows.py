"""One run that meets four faults in a row, each at an exact point, against the same run undisturbed.

A worker is killed in a forward pass, while a checkpoint is written, and at the end of an epoch; the newest commit has
a flipped bit (`make chaos` has more). Same size throughout, so the end must have the same bits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import injector
import marks
import pytest
import ray.util
import yaml
from small import make_recipe

from raysft.recipe.schema import Recipe
from raysft.run import attempts
from raysft.run.run import run_training

EVERY = 6
FAULTS: list[dict[str, Any]] = [
    {"point": "forward", "step": 9, "rank": 1, "act": "kill", "commit": 6},
    {"point": "write", "step": 12, "rank": 1, "act": "kill", "commit": 6},
    {"point": "step", "step": 22, "rank": 0, "act": "kill", "commit": 18},
    {"point": "data", "step": 29, "rank": 0, "act": "flip", "commit": 24},
]
STARTS = [0, 6, 6, 18, 18]
"""The commits that the attempts go on from. The fourth fault costs the newest one."""

pytestmark = pytest.mark.ray


def recipe(directory: Path, name: str, **changes: Any) -> Recipe:
    return make_recipe(
        directory,
        count=900,
        name=name,
        train__epochs=2,
        train__micro_batch_rows=2,
        checkpoint__every_steps=EVERY,
        checkpoint__keep_last=3,
        method={"kind": "lora", "rank": 4, "dropout": 0.0},
        **changes,
    )


@dataclass(frozen=True)
class Run:
    """A finished one."""

    path: Path
    steps: int


@pytest.fixture(scope="module")
def calm(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    result = run_training(recipe(tmp_path_factory.mktemp("rows"), "calm"))
    return Run(Path(result.run), result.steps)


@pytest.fixture(scope="module")
def disturbed(calm: Run) -> Run:
    path = calm.path.with_name("disturbed")
    injector.plan(path, FAULTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "train_worker", attempts.train_worker)  # put back at the end
        injector.arm()
        result = run_training(recipe(calm.path.parents[2], "disturbed"))
    return Run(path, result.steps)


def test_every_fault_struck_and_cost_what_it_may(calm: Run, disturbed: Run) -> None:
    assert calm.steps == 44, "the faults were placed in 2 epochs of 22 steps"
    assert sorted(injector.happened(disturbed.path)) == list(range(len(FAULTS)))
    assert marks.incidents(calm.path) == marks.passing(calm.path) == []
    found: list[dict[str, Any]] = marks.incidents(disturbed.path)
    assert [incident["kind"] for incident in found] == ["worker"] * len(FAULTS)
    assert [incident["decision"] for incident in found] == ["retry"] * len(FAULTS)
    assert marks.parents(disturbed.path) == STARTS
    torn = marks.passing(disturbed.path)
    assert [(incident["kind"], incident["step"], incident["attempt"]) for incident in torn] == [("torn", 24, 5)]
    assert "rank-00000.safetensors does not have its checksum" in torn[0]["what"]
    undamaged = list(zip(FAULTS, STARTS[1:], strict=True))[:3]
    assert all(fault["step"] - start <= EVERY for fault, start in undamaged)


def test_the_end_has_the_same_bits(calm: Run, disturbed: Run) -> None:
    marks.assert_same_bits(calm.path, disturbed.path)
    assert marks.largest_difference(calm.path, disturbed.path) == 0


def test_each_sample_once_and_nothing_left(calm: Run, disturbed: Run) -> None:
    for run in (calm, disturbed):
        marks.assert_each_sample_once(run.path, steps=calm.steps, epochs=2)
        marks.assert_nothing_left(run.path)
    assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}


def command(calm: Run, name: str, faults: list[dict[str, Any]], **changes: Any) -> tuple[Path, Path]:
    """(run, recipe file) of another run on the calm one's material."""
    directory = calm.path.parents[2]
    file = directory / f"{name}.yaml"
    fields = recipe(directory, name, **changes).model_dump(mode="json")
    file.write_text(yaml.safe_dump(fields))
    injector.plan(calm.path.with_name(name), faults)
    return calm.path.with_name(name), file


TRAIN = "import sys, injector; from raysft.cli import main; injector.arm(); sys.exit(main(sys.argv[1:]))"


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    argv = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(argv, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_node_dies_and_comes_back(calm: Run) -> None:
    """The group shrinks to what is left, grows at the next commit, and the loss curve does not show it."""
    run, file = command(
        calm,
        "nodes",
        [
            {"point": "forward", "step": 9, "rank": 1, "act": "hold", "commit": 6},
            {"point": "step", "step": 14, "rank": 0, "act": "hold"},
        ],
        cluster__workers={"min": 1, "max": 2},
    )
    broken, second = command(
        calm,
        "broken",
        [{"point": "forward", "step": 9, "rank": 1, "act": "ecc", "commit": 6}],
        cluster__workers={"min": 1, "max": 2},
    )
    program = start(Path(__file__).with_name("two_nodes.py"), file, second)
    _, said = program.communicate(timeout=380)
    assert program.returncode == 0, said[-3000:]
    assert_left_out(calm, broken)
    found = marks.incidents(run)
    assert [(incident["kind"], incident["workers"]) for incident in found] == [("node", 2), ("resize", 1)]
    assert marks.parents(run) == [0, 6, 18]
    assert len(list((run / "ledger" / "attempt-0003").iterdir())) == 2
    assert 0 < marks.largest_difference(calm.path, run) < 1e-4
    marks.assert_each_sample_once(run, steps=calm.steps, epochs=2)
    marks.assert_nothing_left(run)


def assert_left_out(calm: Run, run: Path) -> None:
    """One node's GPU breaks: the run ends without that node, and says so."""
    (found,) = marks.incidents(run)
    assert (found["kind"], found["workers"], found["decision"]) == ("hardware", 2, "retry")
    assert "uncorrectable ECC error" in found["what"]
    assert found["node"][:12] in found["what"]
    assert marks.parents(run) == [0, 6]
    assert len(list((run / "ledger" / "attempt-0002").iterdir())) == 1, "though the node is alive and has room"
    assert 0 < marks.largest_difference(calm.path, run) < 1e-4
    marks.assert_each_sample_once(run, steps=calm.steps, epochs=2)


def test_the_driver_dies_and_a_second_one_is_refused(calm: Run) -> None:
    held = {"point": "forward", "step": 9, "rank": 1, "act": "hold", "commit": 6}
    run, file = command(calm, "driven", [held])
    driver = start("-c", TRAIN, "train", file)
    try:
        deadline = time.monotonic() + 150
        while not injector.happened(run):
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        refused = start("-c", TRAIN, "train", file)
        _, said = refused.communicate(timeout=100)
        assert refused.returncode == 2
        assert "another command drives the run" in said
        assert f"process {driver.pid}" in said
    finally:
        driver.kill()
        driver.communicate()
    again = start("-c", TRAIN, "train", file)
    _, said = again.communicate(timeout=200)
    assert again.returncode == 0, said[-3000:]
    assert marks.parents(run) == [0, 6]
    marks.assert_same_bits(calm.path, run)
    marks.assert_each_sample_once(run, steps=calm.steps, epochs=2)
    marks.assert_nothing_left(run)


def test_a_rank_hangs_and_then_somebody_asks_the_run_to_stop(calm: Run) -> None:
    """SIGSTOP of one rank: the other's watchdog ends it. SIGTERM of the driver: a commit, exit code 75, and on."""
    limit_s = 15.0
    stopped = {"point": "forward", "step": 9, "rank": 1, "act": "stop", "commit": 6}
    held = {"point": "data", "step": 20, "rank": 0, "act": "hold"}
    run, file = command(calm, "hung", [stopped, held], cluster__hang_timeout_s=limit_s)
    driver = start("-c", TRAIN, "train", file)
    try:
        deadline = time.monotonic() + 240
        while 1 not in injector.happened(run):
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        driver.terminate()
        time.sleep(3)  # the request is seen within a second
        injector.release(run, 1)
        _, said = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert driver.returncode == 75, said[-3000:]
    assert "the run was asked to stop; step" in said
    (hung,) = marks.incidents(run)
    assert hung["kind"] == "hung"
    assert "rank 1 did not arrive at gloo:" in hung["what"], "it left no trace: it stands still"
    stacks = run / "stacks" / "attempt-0001-rank-00000.txt"
    assert limit_s - 1 < stacks.stat().st_mtime - injector.happened(run)[0] < limit_s + 10
    assert hung["at"] - stacks.stat().st_mtime < 4.5, "Ray Train alone waits 5 s for an answer of the stopped rank"
    assert "train_step" in stacks.read_text()
    again = start("-c", TRAIN, "train", file)
    _, said = again.communicate(timeout=200)
    assert again.returncode == 0, said[-3000:]
    committed = marks.parents(run)
    assert committed[:2] == [0, 6]
    assert committed[2] in (20, 21), "where it was asked to stop, not where a commit was due"
    marks.assert_same_bits(calm.path, run)
    marks.assert_each_sample_once(run, steps=calm.steps, epochs=2)
    marks.assert_nothing_left(run)
