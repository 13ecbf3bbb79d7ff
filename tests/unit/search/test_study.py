"""Proposals: each searcher stays in its space, goes on after a restart and finds a minimum; nothing is pickled."""

from __future__ import annotations

import json
import math
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from replay import open_sweep, search_recipe

from raysft.errors import ConflictError
from raysft.recipe.change import change
from raysft.run.locations import BASE, same_in_search
from raysft.search.space import contains
from raysft.search.study import SAMPLERS, Study

NUMBERS: dict[str, Any] = {
    "optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-5, "high": 1e-1},
    "optimizer.beta2": {"distribution": "uniform", "low": 0.5, "high": 0.999},
    "method.rank": {"distribution": "int", "low": 2, "high": 32, "log": True},
}


def far(point: dict[str, Any]) -> float:
    return abs(math.log10(point["optimizer.learning_rate"]) + 3) + abs(math.log2(point["method.rank"] / 8)) / 4


def fill(study: Study, count: int) -> list[float]:
    for _ in range(count):
        trial = study.ask()
        study.report(trial.number, 2, (far(trial.point),))
        study.end(trial.number, "finished", (far(trial.point),))
    return [far(trial.point) for trial in study.trials()]


@pytest.mark.parametrize("searcher", sorted(SAMPLERS.keys() - {"grid"}))
def test_a_reopened_study_proposes_what_an_unbroken_one_does(searcher: str) -> None:
    recipe = search_recipe(NUMBERS, searcher=searcher, budget={"trials": 14}, seed=5)
    unbroken, storage = open_sweep(recipe)[1], InMemoryStorage()
    counts = (10, 1) if searcher == "gp" else (5, 5, 4)  # a fit takes it half a second
    whole = fill(unbroken, sum(counts))
    for count in counts:
        _, broken = open_sweep(recipe, storage)
        parts = fill(broken, count)
    assert parts == whole
    assert len(set(whole)) == len(whole), "a proposal was repeated"
    assert recipe.tune is not None
    for trial in unbroken.trials():
        assert all(contains(recipe.tune.space[name], value) for name, value in trial.point.items())
        assert trial.point.keys() == NUMBERS.keys()


def test_optunas_own_sampler_would_repeat_itself() -> None:
    """Why the sampler is made anew for each proposal: when this fails, it may be kept."""
    storage, seen = InMemoryStorage(), []
    for _ in range(2):
        sampler = optuna.samplers.TPESampler(seed=1)
        study = optuna.create_study(storage=storage, study_name="a", load_if_exists=True, sampler=sampler)
        trial = study.ask()
        seen.append(trial.suggest_float("x", 0, 1))
        study.tell(trial, seen[-1])
    assert seen[0] == seen[1]


@pytest.mark.parametrize("searcher", ["tpe", "cmaes"])
def test_searchers_that_learn_beat_chance(searcher: str) -> None:
    budget = 40
    mean: dict[str, float] = {}
    for name in (searcher, "random"):
        _, study = open_sweep(search_recipe(NUMBERS, searcher=name, budget={"trials": budget}, seed=1))
        late = fill(study, budget)[-8:]
        mean[name] = sum(late) / len(late)
    assert mean[searcher] < 0.6 * mean["random"]


def test_conditions_lists_and_types_survive_the_database(tmp_path: Path) -> None:
    space = {
        "method.kind": {"distribution": "choice", "values": ["full", "lora"]},
        "method.target_modules": {
            "distribution": "choice",
            "values": [["q_proj"], ["q_proj", "v_proj"]],
            "when": {"method.kind": "lora"},
        },
        "train.max_steps": {"distribution": "choice", "values": [None, 8]},
        **NUMBERS,
    }
    url = f"sqlite:///{tmp_path}/study.db"
    recipe = search_recipe(space, budget={"trials": 8}, seed=2)
    _, study = open_sweep(recipe, url)
    for _ in range(8):
        trial = study.ask()
        study.end(trial.number, "finished", (far(trial.point),))
    points = [trial.point for trial in open_sweep(recipe, url)[1].trials()]
    assert points == [trial.point for trial in study.trials()]
    assert all(("method.target_modules" in point) == (point["method.kind"] == "lora") for point in points)
    assert any(point.get("method.target_modules") == ["q_proj", "v_proj"] for point in points)
    assert {point["train.max_steps"] for point in points} == {None, 8}
    assert all(type(point["method.rank"]) is int for point in points)
    dump = "\n".join(sqlite3.connect(tmp_path / "study.db").iterdump())
    assert "80049" not in dump  # how a pickle begins, in hexadecimal


def test_another_search_of_the_same_name_is_refused() -> None:
    storage = InMemoryStorage()
    _, study = open_sweep(search_recipe(NUMBERS, budget={"trials": 1}), storage)
    study.claim({"space.a": 1, "metrics": ("held_out_loss",)})
    study.claim(json.loads('{"metrics": ["held_out_loss"], "space.a": 1}'))
    with pytest.raises(ConflictError, match=r"another search") as refused:
        study.claim({"space.a": 2, "metrics": ("held_out_loss",)})
    assert "space.a: 1 -> 2" in str(refused.value)


def test_a_study_notices_a_base_that_was_replaced() -> None:
    """Also one that was begun before bases were noted: from when they are."""
    _, study = open_sweep(search_recipe(NUMBERS, budget={"trials": 1}), InMemoryStorage())
    same = partial(same_in_search, "/storage/sweeps/s/")
    study.claim({"seed": 1}, same)
    for base in (None, "aa", None, "aa"):
        study.claim({"seed": 1, BASE: base}, same)
    with pytest.raises(ConflictError, match=r"the content of model.source: 'aa' -> 'bb'"):
        study.claim({"seed": 1, BASE: "bb"}, same)


def test_warm_start_takes_what_lies_in_the_space_once() -> None:
    storage = InMemoryStorage()
    old = change(search_recipe(NUMBERS, budget={"trials": 6}), {"name": "old"})
    fill(open_sweep(old, storage)[1], 6)
    narrow = {**NUMBERS, "optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-3, "high": 1e-1}}
    _, new = open_sweep(search_recipe(narrow, budget={"trials": 6}), storage)
    inside = [t for t in open_sweep(old, storage)[1].trials() if t.point["optimizer.learning_rate"] >= 1e-3]
    assert 0 < len(inside) < 6
    assert new.warm_start(("old",)) == len(inside)
    assert new.warm_start(("old",)) == 0
    assert [trial.point for trial in new.trials()] == [trial.point for trial in inside]
    assert not any(trial.is_own for trial in new.trials())
    with pytest.raises(ConflictError, match="names no study: older"):
        new.warm_start(("older",))


def test_several_metrics_have_a_front() -> None:
    recipe = search_recipe(
        NUMBERS, searcher="nsga2", scheduler="none", metrics=["held_out_loss", "tokens_per_s"], budget={"trials": 4}
    )
    _, study = open_sweep(recipe)
    for values in ((1.0, 10.0), (2.0, 30.0), (3.0, 20.0), (0.5, 5.0)):
        study.end(study.ask().number, "finished", values)
    assert [trial.number for trial in study.best()] == [0, 1, 3]


def test_importances() -> None:
    _, study = open_sweep(search_recipe(NUMBERS, searcher="random", budget={"trials": 32}))
    fill(study, 3)
    assert study.importances() == {}
    fill(study, 29)
    assert max(study.importances().items(), key=lambda item: item[1])[0] == "optimizer.learning_rate"
