"""The driver of a search dies by SIGKILL inside a trial: the next command ends it as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from small import make_recipe

from raysft.recipe.schema import Recipe
from raysft.search.command import open_study, search
from raysft.train.commits.lineage import read_attempts

STEPS, KILLED = 30, 1
"""Of a trial; the trial that is under way when the driver dies."""


def recipe(directory: Path, name: str, trials: int = 4) -> Recipe:
    space = {
        "optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 3e-2},
        "method.kind": {"distribution": "choice", "values": ["full", "lora"]},
        "method.rank": {"distribution": "int", "low": 2, "high": 8, "when": {"method.kind": "lora"}},
    }
    return make_recipe(
        directory,
        name=name,
        seed=2,
        train__max_steps=STEPS,
        train__micro_batch_rows=8,
        parallel__zero=0,
        cluster__workers=1,
        data__eval_fraction=0.1,
        evaluate={"every_steps": 3, "max_rows": 2},
        checkpoint={"every_steps": 4},
        tune={"space": space, "budget": {"trials": trials}, "concurrent": 1},
    )


def reports(database: Path, number: int) -> int:
    """How often a trial has reported so far."""
    if not database.exists():
        return 0
    query = "SELECT count(*) FROM trial_intermediate_values JOIN trials USING (trial_id) WHERE number = ?"
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return int(connection.execute(query, (number,)).fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # its tables are being made


def kill_inside_a_trial(wanted: Recipe, directory: Path, number: int = KILLED, times: int = 1) -> None:
    """A search in a process of its own, killed when the trial has reported so often."""
    file, log = directory / "recipe.yaml", directory / "driver.log"
    file.write_text(yaml.safe_dump(wanted.model_dump(mode="json", exclude_defaults=True)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with log.open("w") as stream:
        command = [sys.executable, "-m", "raysft.cli", "tune", str(file)]
        driver = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    database = directory / "storage" / "sweeps" / wanted.name / "study.db"
    deadline = time.monotonic() + 400
    while reports(database, number) < times:
        assert driver.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()


def told(wanted: Recipe) -> list[Any]:
    assert wanted.tune is not None
    study = open_study(wanted, wanted.tune)
    trials = [(trial.number, trial.point, trial.state, trial.values) for trial in study.trials()]
    return [*trials, [trial.number for trial in study.best()]]


def curve_of(wanted: Recipe, number: int) -> Any:
    assert wanted.tune is not None
    return open_study(wanted, wanted.tune).trials()[number].curve


def test_no_trial_is_lost_and_none_is_repeated(ray_cluster: None, tmp_path: Path) -> None:
    calm, disturbed = recipe(tmp_path, "calm"), recipe(tmp_path, "killed")
    kill_inside_a_trial(disturbed, tmp_path)
    before = told(disturbed)
    assert before[KILLED][2] == "running"
    search(disturbed)
    after = told(disturbed)
    assert after[:KILLED] == before[:KILLED]
    assert len(read_attempts(str(tmp_path / "storage" / "runs" / "killed-0"))) == 1
    assert len(read_attempts(str(tmp_path / "storage" / f"runs/killed-{KILLED}"))) == 2  # it went on
    search(calm)
    assert [entry[:3] for entry in after[:-1]] == [entry[:3] for entry in told(calm)[:-1]]
    assert after[-1] == told(calm)[-1]
    for mine, undisturbed in zip(after[:-1], told(calm)[:-1], strict=True):
        assert mine[3] == pytest.approx(undisturbed[3], rel=1e-6)


@pytest.mark.full
def test_three_kills_in_sixteen_trials(ray_cluster: None, tmp_path: Path) -> None:
    """At random places of random trials; the sampler is sequential, so the end is the undisturbed one."""
    calm, disturbed = recipe(tmp_path, "calm16", 16), recipe(tmp_path, "killed16", 16)
    search(calm)
    draw, before = random.Random(int(os.environ.get("SEED", "0"))), told(calm)
    for number in sorted(draw.sample(range(16), 3)):
        length = len(curve_of(calm, number))
        kill_inside_a_trial(disturbed, tmp_path, number, draw.randint(1, max(1, length - 1)))
    search(disturbed)
    after = told(disturbed)
    assert [entry[:3] for entry in after[:-1]] == [entry[:3] for entry in before[:-1]]
    assert [entry[0] for entry in after[:-1]] == list(range(16))
    assert after[-1] == before[-1], "the same best"
    for mine, undisturbed in zip(after[:-1], before[:-1], strict=True):
        assert mine[3] == pytest.approx(undisturbed[3], rel=1e-6)
    started = [len(read_attempts(str(tmp_path / "storage" / f"runs/killed16-{n}"))) for n in range(16)]
    assert sum(started) <= 16 + 3, f"only trials under way started again: {started}"
