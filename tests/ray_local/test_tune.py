"""A tiny search through Ray Tune: trials are runs, the best recipe is ready, and the same command changes nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import make_recipe

from raysft.errors import ConflictError, RaysftError, RecipeError
from raysft.recipe.load import load_recipe
from raysft.recipe.schema import Recipe
from raysft.run.run import run_training
from raysft.search.command import open_study, search
from raysft.search.sweep import spent_of
from raysft.train.commits.lineage import read_attempts
from raysft.train.history.records import read_ledger, read_metrics

STEPS = 6
SPACE: dict[str, Any] = {
    "optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 3e-2},
    "method.rank": {"distribution": "choice", "values": [2, 4]},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tune")


def recipe(directory: Path, name: str, **changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "train__max_steps": STEPS,
        "parallel__zero": 0,
        "cluster__workers": 1,
        "train__micro_batch_rows": 4,
        "data__eval_fraction": 0.1,
        "method": {"kind": "lora"},
        "evaluate": {"every_steps": 2, "max_rows": 2},
        "checkpoint": {"every_steps": 2},
        "tune": {"space": SPACE, "budget": {"trials": 4}, "scheduler": "none", "concurrent": 2},
    }
    return make_recipe(directory, name=name, **(fields | changes))


@pytest.fixture(scope="module")
def searched(ray_cluster: None, directory: Path) -> Recipe:
    wanted = recipe(directory, "wide")
    search(wanted)
    return wanted


def curve(directory: Path, run: str) -> list[tuple[int, float]]:
    lines = read_metrics(str(directory / "storage" / "runs" / run))
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "eval" and line["step"] > 0]


def test_trials_are_runs_and_all_is_in_the_study(searched: Recipe, directory: Path) -> None:
    assert searched.tune is not None
    trials = open_study(searched, searched.tune).trials()
    assert [trial.state for trial in trials] == ["finished"] * 4
    for trial in trials:
        assert list(trial.curve) == curve(directory, f"wide-{trial.number}")
        assert trial.values == (trial.curve[-1][1],)
        assert sorted(read_ledger(str(directory / "storage" / "runs" / f"wide-{trial.number}"))) == list(range(1, 7))
        run = json.loads((directory / "storage" / "runs" / f"wide-{trial.number}" / "run.json").read_text())
        assert run["recipe"]["optimizer"]["learning_rate"] == trial.point["optimizer.learning_rate"]
        assert run["recipe"]["method"]["rank"] == trial.point["method.rank"]
        assert 0 < spent_of(trial).core_s < 60
    assert (
        len(list((directory / "storage" / "tokens").glob("*/manifest.json"))) == 2
    )  # one for training, one held out
    assert not list((directory / "storage").rglob("*.pkl"))


def test_a_trial_alone_gives_the_same_losses(searched: Recipe, directory: Path) -> None:
    """In a warm process after others, and as a run of its own on a Ray Train worker."""
    assert searched.tune is not None
    best = open_study(searched, searched.tune).best()[0]
    again = load_recipe(directory / "storage" / "sweeps" / "wide" / "best.yaml", ["name=alone"])
    assert again.optimizer.learning_rate == best.point["optimizer.learning_rate"]
    run_training(again)
    alone = curve(directory, "alone")
    assert [step for step, _ in alone] == [step for step, _ in best.curve]
    assert [loss for _, loss in alone] == pytest.approx([loss for _, loss in best.curve], rel=1e-6)


def test_the_same_command_tells_the_same_and_changes_nothing(searched: Recipe, directory: Path) -> None:
    runs = directory / "storage" / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    lines = search(searched).lines()
    assert "4 trials: 4 finished" in "\n".join(lines)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == before


def test_every_file_of_a_finished_search_may_be_damaged(searched: Recipe, directory: Path, tmp_path: Path) -> None:
    """The same command then ends as before, or says which file is wrong: never with other numbers. A database that is
    gone is made again, from the same points and the runs that are there."""
    tune = searched.tune
    assert tune is not None

    def outcome() -> tuple[Any, ...]:
        trials = [(t.number, t.state, t.point, t.values, t.curve) for t in open_study(searched, tune).trials()]
        return trials, (sweep / "best.yaml").read_text()

    sweep = directory / "storage" / "sweeps" / "wide"
    whole = tmp_path / "sweep"
    shutil.copytree(sweep, whole)
    before = outcome()
    damages: dict[str, Callable[[bytes], bytes]] = {
        "cut": lambda data: data[: len(data) // 2],
        "empty": lambda data: b"",
        "foreign": lambda data: b"something else\n" * 40,
    }
    told: list[tuple[str, str]] = []
    for file in sorted(path for path in whole.rglob("*") if path.is_file()):
        for damage in damages.values():
            target = sweep / file.relative_to(whole)
            target.write_bytes(damage(file.read_bytes()))
            try:
                search(searched)
            except RaysftError as error:
                told.append((target.name, str(error)))
            else:
                assert outcome() == before, target
            target.write_bytes(file.read_bytes())
    assert {name for name, _ in told} == {"study.db"}, "a cut database cannot be read; the rest is written again"
    draw, database = random.Random(3), (whole / "study.db").read_bytes()
    for _ in range(24):
        spoilt = bytearray(database)
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
        (sweep / "study.db").write_bytes(spoilt)
        try:
            assert outcome() == before
        except RaysftError as error:
            told.append(("study.db", str(error)))
    assert not [text for _, text in told if "study" not in text]
    (sweep / "study.db").write_bytes(database)


@pytest.mark.parametrize("workers", [1, 2], ids=["warm", "workers of their own"])
def test_a_trial_that_fails_and_one_that_is_hopeless_do_not_end_the_search(
    ray_cluster: None, directory: Path, workers: int
) -> None:
    """With one worker a learning rate that overflows comes first; the hopeless one is stopped at the first rung."""
    rates = [1e38, 3e-3, 1e-9][workers - 1 :]
    wanted = recipe(
        directory,
        f"narrow-{workers}",
        method={"kind": "full"},
        cluster__workers=workers,
        train__max_steps=40,
        checkpoint={"every_steps": 1000},
        tune={
            "space": {"optimizer.learning_rate": {"distribution": "choice", "values": rates}},
            "budget": {"trials": len(rates)},
            "start": [{"optimizer.learning_rate": rate} for rate in rates],
        },
    )
    search(wanted)
    assert wanted.tune is not None
    *overflown, good, hopeless = open_study(wanted, wanted.tune).trials()
    assert [(trial.state, "not finite" in trial.facts["why"]) for trial in overflown] == [("failed", True)][
        workers - 1 :
    ]
    assert good.state == "finished"
    assert hopeless.state == "pruned"
    assert hopeless.curve[-1][0] < 40
    assert [trial.number for trial in open_study(wanted, wanted.tune).best()] == [good.number]


def test_trials_together_end_as_trials_apart(searched: Recipe, ray_cluster: None, directory: Path) -> None:
    """In two hosts with two places each, of which one is used again, with their own records and checkpoints."""
    assert searched.tune is not None
    apart = open_study(searched, searched.tune).trials()
    points = [trial.point for trial in apart]
    wanted = recipe(
        directory,
        "together",
        tune={
            "space": SPACE,
            "budget": {"trials": 4},
            "scheduler": "none",
            "concurrent": 3,
            "executor": "fused",
            "start": points,
        },
    )
    search(wanted)
    assert wanted.tune is not None
    together = open_study(wanted, wanted.tune).trials()
    assert [trial.point for trial in together] == points
    assert [trial.state for trial in together] == ["finished"] * 4
    for ours, theirs in zip(together, apart, strict=True):
        assert [step for step, _ in ours.curve] == [step for step, _ in theirs.curve]
        assert [v for _, v in ours.curve] == pytest.approx([v for _, v in theirs.curve], rel=1e-5)
        assert sorted(read_ledger(str(directory / "storage" / "runs" / f"together-{ours.number}"))) == list(
            range(1, 7)
        )
    final = load_recipe(directory / "storage" / "sweeps" / "together" / "best.yaml", [])
    result = run_training(final)  # evaluates and exports what the host has trained
    assert result.exports
    assert result.steps == STEPS


def test_a_host_that_dies_costs_its_trials_only_what_they_had_not_committed(
    ray_cluster: None, directory: Path
) -> None:
    steps = 60
    wanted = recipe(
        directory,
        "hosted",
        train__max_steps=steps,
        cluster__cpus_per_worker=2,
        evaluate={"every_steps": 20, "max_rows": 2},
        checkpoint={"every_steps": 10},
        tune={"space": SPACE, "budget": {"trials": 2}, "scheduler": "none", "executor": "fused"},
    )
    runs = [directory / "storage" / "runs" / f"hosted-{number}" for number in range(2)]
    killed: list[int] = []

    def kill() -> None:
        """As soon as both trials have committed something, the process that holds them."""
        while not all(list(run.glob("checkpoints/*/*/commit.json")) for run in runs):
            time.sleep(0.02)
        pids = {json.loads(next(run.glob("ledger/*/*.jsonl")).read_text().splitlines()[0])["pid"] for run in runs}
        killed.extend(pids)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    search(wanted)
    assert len(killed) == 1  # they were in one process
    assert wanted.tune is not None
    for trial, run in zip(open_study(wanted, wanted.tune).trials(), runs, strict=True):
        assert (trial.state, trial.facts["lost"]) == ("finished", 1)
        first, second = read_attempts(str(run))
        assert first.parent is None
        assert second.parent is not None
        assert second.parent.step >= 10
        assert list(read_ledger(str(run))) == list(range(1, steps + 1))


def test_another_search_of_the_same_name_is_refused(searched: Recipe, directory: Path) -> None:
    wider = {**SPACE, "method.rank": {"distribution": "choice", "values": [2, 4, 8]}}
    with pytest.raises(ConflictError, match="another search"):
        search(recipe(directory, "wide", tune={"space": wider, "budget": {"trials": 4}}))
    with pytest.raises(ConflictError, match="another search"):
        search(recipe(directory, "wide", optimizer={"weight_decay": 0.1}))
    with pytest.raises(RecipeError, match="names no field"):
        search(
            recipe(directory, "wide", tune={"space": {"method.rnk": SPACE["method.rank"]}, "budget": {"trials": 4}})
        )


@pytest.mark.parametrize("executor", ["fused", "separate"])
def test_a_population_goes_on_from_its_best(ray_cluster: None, directory: Path, executor: str) -> None:
    """One of the members has a learning rate that teaches nothing: it becomes a copy, weights, moments and all."""
    wanted = recipe(
        directory,
        f"population-{executor}",
        tune={
            "space": {"optimizer.learning_rate": {"distribution": "choice", "values": [1e-9, 3e-3]}},
            "searcher": "grid",
            "budget": {"trials": 2},
            "scheduler": {"kind": "pbt", "min_steps": 2, "quantile": 0.5},
            "concurrent": 2,
            "executor": executor,
        },
    )
    search(wanted)
    assert wanted.tune is not None
    trials = open_study(wanted, wanted.tune).trials()
    assert sum(trial.state == "finished" for trial in trials) == 2
    children = [trial for trial in trials if "copies" in trial.facts]
    assert len(children) == 2, "a round at steps 2 and 4"
    for child in children:
        source, loser = trials[child.facts["copies"]], trials[child.facts["replaces"]]
        at = loser.curve[-1][0]
        assert loser.state == "pruned"
        assert dict(source.curve)[at] <= dict(loser.curve)[at], (
            "a copy that learns at the same rate ties with the best"
        )
        run = f"population-{executor}-{child.number}"
        held, began = read_attempts(str(directory / "storage" / "runs" / run))[:2]
        assert (held.parent, began.parent and began.parent.step) == (None, at)
        losses, learns = dict(source.curve), child.point == source.point
        assert curve(directory, run)[-1] == child.curve[-1]
        assert dict(child.curve)[at + 2] == pytest.approx(
            losses[at + 2 if learns else at], rel=1e-5 if learns else 1e-4
        )
    assert any(child.point == trials[child.facts["copies"]].point for child in children), "choose another seed"
