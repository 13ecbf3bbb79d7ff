"""`raysft plan` as a user meets it: what is printed, and what is refused with a message and a code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import raysft, write_material


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("planner"))


def test_a_plan_and_the_matrix(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    ran = raysft(capsys, "plan", recipe, "--cluster", "2xH100-80G")
    assert ran.code == 0
    assert "fastest" in ran.out
    numbers = json.loads(raysft(capsys, "plan", recipe, "--cluster", "2xCPU-8G", "--json").out)
    assert all(layout["fits"] for layout in numbers["layouts"])
    ran = raysft(capsys, "plan", "--matrix")
    assert ran.code == 0
    assert "no: refused" in ran.out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--cluster", "8H100"), "COUNTxDEVICE"),
        (("--cluster", "8xH100-90G"), "did you mean H100-80G?"),
        (("--set", "parallel={zero: 3, tensor: 2}", "--set", "cluster.workers=2"), "set parallel.zero to 2"),
        (("--set", "parallel.tensor=0"), "parallel.tensor"),
        (("--cluster", "3xCPU-8G", "--set", "parallel.zero=1", "--set", "parallel.pipeline=2"), "do not divide"),
        (("--set", "cluster.gpus_per_worker=1"), "--cluster 8xH100-80G"),
    ],
)
def test_what_is_refused(
    capsys: pytest.CaptureFixture[str], recipe: Path, arguments: tuple[str, ...], word: str
) -> None:
    ran = raysft(capsys, "plan", recipe, *arguments)
    assert ran.code == 2
    assert word in ran.err
    assert ran.err.count("\n") <= 5


def test_without_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    ran = raysft(capsys, "plan")
    assert ran.code == 2
    assert "--matrix" in ran.err
