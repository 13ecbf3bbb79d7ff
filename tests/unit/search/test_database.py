"""The database of a search: damaged, replaced, away, and told without its password."""

from __future__ import annotations

import json
import shutil
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from replay import open_sweep, search_recipe

from raysft.errors import ConflictError, StorageError
from raysft.search.study import Study

NUMBERS: dict[str, Any] = {
    "optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-5, "high": 1e-1},
    "optimizer.beta2": {"distribution": "uniform", "low": 0.5, "high": 0.999},
    "method.rank": {"distribution": "int", "low": 2, "high": 32, "log": True},
}


def test_a_database_that_does_not_open_is_named_without_its_password(tmp_path: Path) -> None:
    recipe = search_recipe(NUMBERS, budget={"trials": 1})
    with pytest.raises(StorageError, match=r"study.db"):
        open_sweep(recipe, f"sqlite:///{tmp_path}/missing/study.db")
    with pytest.raises(StorageError) as refused:
        open_sweep(recipe, "nosuch://user:secret@host/name")
    assert "secret" not in str(refused.value)


def test_a_number_that_changed_in_the_database_is_no_result(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    recipe = search_recipe(NUMBERS, budget={"trials": 2})
    assert recipe.tune is not None
    opened = partial(Study, url, "s", recipe.tune, seed=0, base=recipe.model_dump(mode="json"))
    study = opened()
    for value in (0.5, 0.25):
        study.end(study.ask().number, "finished", (value,))
    assert [trial.values for trial in opened().trials()] == [(0.5,), (0.25,)]
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE trial_values SET value = 0.125 WHERE value = 0.5")
    with pytest.raises(StorageError, match="is damaged") as caught:
        opened()
    assert "trial 0" in caught.value.got


@pytest.mark.parametrize("damage", ["cut", "emptied to text", "flipped"])
def test_a_damaged_database_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "study.db"
    recipe = search_recipe(NUMBERS, budget={"trials": 2})
    assert recipe.tune is not None
    opened = partial(Study, f"sqlite:///{path}", "s", recipe.tune, seed=0, base=recipe.model_dump(mode="json"))
    study = opened()
    study.end(study.ask().number, "finished", (0.5,))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 3]
    elif damage == "flipped":
        data[3] ^= 1
    path.write_bytes(b"no database, a text" if damage == "emptied to text" else bytes(data))
    with pytest.raises(StorageError, match=r"study\.db") as caught:
        opened()
    assert caught.value.fix


def searched(path: Path, search: dict[str, Any]) -> Study:
    """A study in a file that claims this search."""
    recipe = search_recipe(NUMBERS, budget={"trials": 2})
    assert recipe.tune is not None
    study = Study(f"sqlite:///{path}", "s", recipe.tune, seed=0, base=recipe.model_dump(mode="json"))
    study.claim(search)
    return study


SEARCH = {"space.a": {"low": 0.25}, "metrics": ("held_out_loss",)}


CHANGES = (
    "UPDATE study_user_attributes SET value_json = replace(value_json, '0.25', '0.24') WHERE key = 'search'",
    "UPDATE study_user_attributes SET value_json = '[1]' WHERE key = 'search'",
    "UPDATE study_user_attributes SET value_json = '{' WHERE key = 'search'",
    "UPDATE study_user_attributes SET key = 'sear' WHERE key = 'search'",
    "DELETE FROM trials",
)


def test_a_damaged_record_of_what_is_searched_is_no_other_search(tmp_path: Path) -> None:
    study = searched(tmp_path / "study.db", SEARCH)
    study.end(study.ask().number, "finished", (0.5,))
    with pytest.raises(ConflictError, match="another search"):
        searched(tmp_path / "study.db", {**SEARCH, "space.a": {"low": 0.5}})
    for number, made in enumerate(CHANGES):
        path = tmp_path / f"{number}.db"
        shutil.copy(tmp_path / "study.db", path)
        with sqlite3.connect(path) as database:
            database.execute(made)
        with pytest.raises(StorageError, match="is damaged"):
            searched(path, SEARCH)
    assert searched(tmp_path / "study.db", SEARCH).best()


def test_a_record_of_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    study = searched(tmp_path / "study.db", SEARCH)
    study.end(study.ask().number, "finished", (0.5,))
    with sqlite3.connect(tmp_path / "study.db") as database:
        old = (json.dumps(SEARCH),)
        database.execute("UPDATE study_user_attributes SET value_json = ? WHERE key = 'search'", old)
        database.execute("DELETE FROM study_user_attributes WHERE key LIKE 'seal-%'")
    assert [trial.values for trial in searched(tmp_path / "study.db", SEARCH).trials()] == [(0.5,)]
    with pytest.raises(ConflictError, match="another search"):
        searched(tmp_path / "study.db", {**SEARCH, "space.a": {"low": 0.5}})


def test_a_database_that_fails_in_the_middle_is_told(tmp_path: Path) -> None:
    study = searched(tmp_path / "study.db", SEARCH)
    trial = study.ask()
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("DROP TABLE trial_user_attributes")
    with pytest.raises(StorageError, match="cannot use the study's database") as refused:
        study.note(trial.number, "spent", [1.0])
    assert "no such table" in refused.value.got
