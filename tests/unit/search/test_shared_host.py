"""A host of trials, without Ray: a trial that is sent again while it still trains there is ended first."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import recipe_content
from replay import open_sweep, search_recipe

from raysft.errors import RecipeError
from raysft.recipe.change import change
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.run.rundir import run_location
from raysft.search import shared_host, trial_stream, tune_driver
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
