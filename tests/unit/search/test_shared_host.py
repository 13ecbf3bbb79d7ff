"""A host of trials, without Ray: a trial that is sent again while it still trains there is ended first."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from fakes import recipe_content
from ray import tune
from ray.exceptions import ActorUnavailableError
from replay import open_sweep, search_recipe

from raysft.errors import RecipeError
from raysft.recipe.change import change
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.run.rundir import run_location
from raysft.search import shared_host, shared_trial, trial_stream, tune_driver
from raysft.search.shared_trial import HostActor
from raysft.train.watch import stop_requests


def test_a_trial_has_one_trainer_in_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = []
    most: list[int] = []
    began = threading.Event()

    def train_trial(recipe: Recipe, planned: Callable[[int], None], attempts: Any, pause_step: int | None) -> str:
        run, is_first = run_location(recipe), not began.is_set()
        running.append(1)
        most.append(len(running))
        began.set()
        deadline = time.monotonic() + 10
        while (
            is_first and stop_requests.pending(run) is not stop_requests.Notice.STOP and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        stop_requests.clear(run)
        running.pop()
        return "interrupted" if is_first else "finished"

    monkeypatch.setattr(shared_host, "train_trial", train_trial)
    monkeypatch.setattr(trial_stream, "POLL_S", 0.01)
    recipe = parse_recipe(recipe_content(storage=str(tmp_path), name="trial"))
    config = {"number": 3, "recipe": json.dumps(recipe.model_dump(mode="json")), "pause_step": None}
    host = HostActor(partial(shared_host.Host, 0))
    said: list[dict[str, Any]] = []
    first = threading.Thread(
        target=lambda: said.extend(map(json.loads, host.follow(config | {"order": 1}, ["train_loss"])))
    )
    first.start()
    assert began.wait(10)
    host.begin(config | {"order": 2})
    host.begin(config | {"order": 2})  # as the one of follow() that comes late
    second = [json.loads(line) for line in host.follow(config | {"order": 2}, ["train_loss"])]
    first.join(10)
    assert said[-1]["ended"]["status"] == "interrupted"
    assert second[-1]["ended"]["status"] == "finished"
    assert most == [1, 1], "each once, one after the other"
    newest = host._host._begun[3]
    for order in (1, 2):  # late: they are over
        host.begin(config | {"order": order})
        assert host._host._begun[3] is newest
    broken = config | {"order": 3, "recipe": "{}"}
    for what in (host.begin, lambda config: list(host.follow(config, []))):  # nobody hears the first
        with pytest.raises(RecipeError):
            what(broken)
    assert 0 < said[-1]["spent"]["core_s"] <= said[-1]["spent"]["seconds"] + 0.1


class Handle:
    """Of a host: keeps the trials that it was told to begin."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.begin = SimpleNamespace(remote=self.begun.append)


def test_a_host_is_told_of_a_trial_when_it_is_suggested() -> None:
    """Before Tune has a process for it: trials of a host that begin together go through the model together."""
    recipe = search_recipe({"method.rank": {"distribution": "choice", "values": [2, 4]}}, budget={"trials": 4})
    recipe = change(recipe, {"method.kind": "lora"})
    sweep, _ = open_sweep(recipe)
    handles = [Handle(), Handle()]
    searcher = tune_driver._SweepSearcher(recipe, sweep, tune_driver.SearchListener(), handles)
    told = [searcher.suggest(f"trial-{i}") for i in range(4)]
    assert [config["host"] for config in told] == [0, 1, 0, 1]
    assert [handle.begun for handle in handles] == [told[::2], told[1::2]]
    assert [config["order"] for config in told] == [1, 2, 3, 4]


class Restarting:
    """A handle of an actor that Ray starts again: it refuses so many calls."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.asked = refusals, [""]
        self.ready, self.follow = self, self
        self.options = lambda **_: self

    def remote(self, *args: Any) -> Any:
        self.asked.append("follow" if args else "ready")
        return ["a", "b"] if args else ("ready", self)


def test_a_trial_that_comes_back_waits_for_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(asked: Any, timeout: float | None = None) -> Any:
        if isinstance(asked, str):
            return asked
        assert timeout is not None
        host = asked[1]
        host.refusals -= 1
        if host.refusals >= 0:
            raise ActorUnavailableError("it is started again", None)
        return None

    reports: list[str] = []
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(tune, "report", lambda report: reports.append(report["message"]))
    host = Restarting(refusals=3)
    shared_trial.shared_trial_function({"host": 0}, [host], [])
    assert reports == ["a", "b"]
    assert host.asked[1:] == [*["ready"] * 4, "follow"]
    monkeypatch.setattr(shared_trial, "START_S", 0.2)
    with pytest.raises(TimeoutError, match="did not start again"):
        shared_trial.shared_trial_function({"host": 0}, [Restarting(refusals=1000)], [])


def test_a_trials_own_process_imports_no_model_library() -> None:
    """Each trial has one beside its host's: with them it would cost 8 CPU-seconds instead of 2."""
    program = "import sys, raysft.search.shared_trial; sys.exit(str({'torch', 'deepspeed'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "set()"
