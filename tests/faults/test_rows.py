"""One run that meets five faults in a row, each at an exact point, against the same run undisturbed.

A worker is killed in a forward pass, while a checkpoint is written, and at the end of an epoch; the newest commit has
a flipped bit, and then a missing file. Same size throughout, so the end must have the same bits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import injector
import marks
from raysft.orchestrate import attempts
from raysft.orchestrate.run import run_training
from raysft.recipe.schema import Recipe
from small import make_recipe

EVERY = 6
FAULTS: list[dict[str, Any]] = [
    {"point": "forward", "step": 9, "rank": 1, "act": "kill", "commit": 6},
    {"point": "write", "step": 12, "rank": 1, "act": "kill", "commit": 6},
    {"point": "step", "step": 22, "rank": 0, "act": "kill", "commit": 18},
    {"point": "data", "step": 29, "rank": 0, "act": "flip", "commit": 24},
    {"point": "optimizer", "step": 34, "rank": 1, "act": "lose", "commit": 30},
]
STARTS = [0, 6, 6, 18, 18, 24]
"""The commits that the attempts go on from. The fourth and fifth fault each cost the newest one."""

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


@pytest.fixture(scope="module")
def runs(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    directory = tmp_path_factory.mktemp("rows")
    calm = run_training(recipe(directory, "calm"))
    disturbed = Path(calm.run).with_name("disturbed")
    injector.plan(disturbed, FAULTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "train_worker", attempts.train_worker)  # put back at the end
        injector.arm()
        run_training(recipe(directory, "disturbed"))
    return Path(calm.run), disturbed, calm.steps


def test_every_fault_struck_and_cost_what_it_may(runs: tuple[Path, Path, int]) -> None:
    calm, disturbed, steps = runs
    assert steps == 44, "the faults were placed in 2 epochs of 22 steps"
    assert sorted(injector.happened(disturbed)) == list(range(len(FAULTS)))
    assert marks.incidents(calm) == []
    found: list[dict[str, Any]] = marks.incidents(disturbed)
    assert [incident["kind"] for incident in found] == ["worker"] * len(FAULTS)
    assert [incident["decision"] for incident in found] == ["retry"] * len(FAULTS)
    assert marks.parents(disturbed) == STARTS
    undamaged = list(zip(FAULTS, STARTS[1:], strict=True))[:3]
    assert all(fault["step"] - start <= EVERY for fault, start in undamaged)


def test_the_end_has_the_same_bits(runs: tuple[Path, Path, int]) -> None:
    marks.assert_same_bits(*runs[:2])
    assert marks.largest_difference(*runs[:2]) == 0


def test_each_sample_once_and_nothing_left(runs: tuple[Path, Path, int]) -> None:
    for run in runs[:2]:
        marks.assert_each_sample_once(run, steps=runs[2], epochs=2)
        marks.assert_nothing_left(run)


def command(calm: Path, name: str, faults: list[dict[str, Any]], **changes: Any) -> tuple[Path, Path]:
    """(run, recipe file) of another run on the calm one's material."""
    directory = calm.parents[2]
    file = directory / f"{name}.yaml"
    fields = recipe(directory, name, **changes).model_dump(mode="json")
    file.write_text(yaml.safe_dump(fields))
    injector.plan(calm.with_name(name), faults)
    return calm.with_name(name), file


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    argv = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(argv, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_node_dies_and_comes_back(runs: tuple[Path, Path, int]) -> None:
    """The group shrinks to what is left, grows at the next commit, and the loss curve does not show it."""
    calm, _, steps = runs
    run, file = command(
        calm,
        "nodes",
        [
            {"point": "forward", "step": 9, "rank": 1, "act": "hold", "commit": 6},
            {"point": "step", "step": 14, "rank": 0, "act": "hold"},
        ],
        cluster__workers={"min": 1, "max": 2},
    )
    _, said = (program := start(Path(__file__).with_name("two_nodes.py"), file)).communicate(timeout=280)
    assert program.returncode == 0, said[-3000:]
    found = marks.incidents(run)
    assert [(incident["kind"], incident["workers"]) for incident in found] == [("node", 2), ("resize", 1)]
    assert marks.parents(run) == [0, 6, 18]
    assert len(list((run / "ledger" / "attempt-0003").iterdir())) == 2
    assert 0 < marks.largest_difference(calm, run) < 1e-4
    marks.assert_each_sample_once(run, steps=steps, epochs=2)
    marks.assert_nothing_left(run)


def test_the_driver_dies_and_a_second_one_is_refused(runs: tuple[Path, Path, int]) -> None:
    calm, _, steps = runs
    held = {"point": "forward", "step": 9, "rank": 1, "act": "hold", "commit": 6}
    run, file = command(calm, "driven", [held])
    train = (
        "import sys, injector; from raysft.cli import main; injector.arm(); sys.exit(main(['train', sys.argv[1]]))"
    )
    driver = start("-c", train, "train", file)
    try:
        deadline = time.monotonic() + 150
        while not injector.happened(run):
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        refused = start("-c", train, "train", file)
        _, said = refused.communicate(timeout=100)
        assert refused.returncode == 2
        assert "another command drives the run" in said
        assert f"process {driver.pid}" in said
    finally:
        driver.kill()
        driver.communicate()
    again = start("-c", train, "train", file)
    _, said = again.communicate(timeout=200)
    assert again.returncode == 0, said[-3000:]
    assert marks.parents(run) == [0, 6]
    marks.assert_same_bits(calm, run)
    marks.assert_each_sample_once(run, steps=steps, epochs=2)
    marks.assert_nothing_left(run)
