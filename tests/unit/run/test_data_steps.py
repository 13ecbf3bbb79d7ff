"""`raysft data ...`: what is printed, which files are written, how mistakes end. Without Ray: the survey is given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import assert_refused, raysft, write_material

from raysft.data.store.manifest import write_manifest
from raysft.data.store.versions import read_log, record_version, roll_back, store_location
from raysft.recipe.load import load_recipe
from raysft.recipe.schema import Recipe
from raysft.run import data_steps

SURVEY: dict[str, Any] = {
    **dict.fromkeys(("records", "conversations", "kept", "tokens", "target_tokens", "over_long", "files"), 3),
    "recipe": "tiny",
    "at": "now",
    "max_tokens": 64,
    "over_long_policy": "",
    "lengths": {"mean": 1, "quantiles": {"50%": 1}, "bins": []},
    "quality": {"mean": 0.5, "bins": [0] * 20, "components": {}},
    "duplicates": {},
    "groups": {},
    "actions": {},
    **{name: [] for name in ("languages", "pii", "found", "findings", "refused", "not_read")},
    **{name: [] for name in ("clusters", "labels", "bias")},
    "advice": ["mind the gap"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("user"))


@pytest.fixture
def path(folder: Path, tmp_path: Path) -> str:
    """A recipe with a storage of its own."""
    text = folder.read_text().replace(f"storage: {folder.parent}/storage", f"storage: {tmp_path}/storage")
    (tmp_path / "recipe.yaml").write_text(text)
    return str(tmp_path / "recipe.yaml")


@pytest.fixture
def surveyed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of the survey, which is not run."""
    calls: list[dict[str, Any]] = []

    def survey(recipe: Recipe, **arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        return SURVEY

    @contextmanager
    def cluster() -> Iterator[None]:
        yield

    monkeypatch.setattr(data_steps, "survey", survey)
    monkeypatch.setattr(data_steps, "cluster", cluster)
    return calls


def versions(path: str, *names: str) -> Recipe:
    recipe = load_recipe(path)
    for number, name in enumerate(names, 1):
        counts = {"records_read": 10, "examples": 1000 * number, "tokens": 7, "target_tokens": 1, "rows": 1}
        manifest = {"inputs": {"train_on": name}, "counts": counts, "parts": []}
        write_manifest(store_location(recipe, name), manifest)
        record_version(recipe, name)
    return recipe


def test_report_writes_a_page_and_numbers_and_prints_a_summary(path, surveyed, capsys, tmp_path) -> None:
    ran = raysft(capsys, "data", "report", path, "--attribute", "gender", "--attribute", "Age")
    assert ran.code == 0, ran.err
    assert "mind the gap" in ran.out
    assert "\033" not in ran.out, "no colours where nobody looks"
    assert surveyed[0]["attributes"] == ("gender", "Age")
    home = tmp_path / "storage" / "datasets" / "tiny"
    assert "mind the gap" in (home / "report.html").read_text()
    assert json.loads((home / "report.json").read_text()) == SURVEY
    assert str(home / "report.html") in ran.err


def test_report_elsewhere_and_as_json(path, surveyed, capsys, tmp_path) -> None:
    out = tmp_path / "pages" / "mine.html"
    ran = raysft(capsys, "data", "report", path, "--out", str(out), "--json")
    assert json.loads(ran.out) == SURVEY
    assert out.is_file()
    assert json.loads(out.with_suffix(".json").read_text()) == SURVEY


def test_log_diff_and_rollback(path, capsys) -> None:
    recipe = versions(path, "aaa", "bbb")
    lines = raysft(capsys, "data", "log", path).out.splitlines()
    assert lines[0].split() == ["version", "when", "samples", "tokens", "change"]
    assert lines[1].split()[:2] == ["*", "2"]
    assert "2,000" in lines[1]
    assert "train_on: 'aaa' -> 'bbb'" in lines[1]
    assert lines[2].split()[0] == "1"
    assert "first version" in lines[2]
    ran = raysft(capsys, "data", "diff", path, "1", "2")
    assert ran.out.splitlines() == ["examples: 1000 -> 2000", "train_on: 'aaa' -> 'bbb'"]
    assert "same store" in raysft(capsys, "data", "diff", path, "1", "1").out
    ran = raysft(capsys, "data", "rollback", path, "1")
    assert "version 3: rolled back to version 1" in ran.out
    assert read_log(recipe)[-1].fingerprint == "aaa"
    roll_back(recipe, 2)
    marks = [line.split()[:2] for line in raysft(capsys, "data", "log", path).out.splitlines()[1:5]]
    assert marks == [["*<", "4"], ["<", "3"], ["2", marks[2][1]], ["1", marks[3][1]]]


def test_log_of_a_store_that_is_gone(path, capsys) -> None:
    recipe = load_recipe(path)
    record_version(recipe, "lost")
    assert "gone" in raysft(capsys, "data", "log", path).out


@pytest.mark.parametrize("arguments", [("diff", "1", "9"), ("diff", "9", "1"), ("rollback", "9")])
def test_a_version_that_there_is_not(path, capsys, arguments) -> None:
    versions(path, "aaa")
    verb, *numbers = arguments
    assert_refused(raysft(capsys, "data", verb, path, *numbers), "no data version 9", "a number from 1 to 1")


def test_before_anything_was_prepared(path, capsys) -> None:
    assert "no data version yet" in raysft(capsys, "data", "log", path).out
    assert_refused(raysft(capsys, "data", "rollback", path, "1"), "nothing was prepared yet")


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_number_that_is_none(path, capsys, number) -> None:
    ran = raysft(capsys, "data", "rollback", path, number)
    assert ran.code == 2
    assert "expected a whole number from 1 on" in ran.err or "unrecognized" in ran.err or "required" in ran.err
