"""The compatibility matrix: what is refused, that its tests exist, and that the layout it names instead runs."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from layouts import LLAMA_8B, recipe_with

from raysft.recipe import compatibility, objective_traits
from raysft.recipe.resolve import resolve

ROOT = Path(__file__).parents[3]


def test_an_objective_that_needs_the_whole_model_is_refused_in_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        objective_traits.OBJECTIVES, "distill", replace(objective_traits.OBJECTIVES["sft"], whole_rows=True)
    )
    cell = compatibility.Cell("full", "distill", "bf16", 1, pipeline=True, tensor=False, sequence=False)
    assert "whole sequences on one rank" in compatibility.verdict(cell).why
    assert compatibility.verdict(replace(cell, pipeline=False)).status != "refused"
    assert compatibility.verdict(replace(cell, objective="sft")).status != "refused"


def test_every_tested_cell_names_a_test_that_exists() -> None:
    tests = {test for cell in compatibility.cells() for test in compatibility.verdict(cell).tests}
    assert tests
    for test in tests:
        path, _, function = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, test


def test_every_refusal_says_why_and_what_instead() -> None:
    counts = dict.fromkeys(("tested", "untested", "refused"), 0)
    for cell in compatibility.cells():
        found = compatibility.verdict(cell)
        counts[found.status] += 1
        assert (found.status == "refused") == bool(found.why) == bool(found.instead)
        assert (found.status == "tested") == bool(found.tests)
    assert all(counts.values()), counts


def test_an_untested_cell_is_said_once_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(**fields: Any) -> list[str]:
        told = resolve(recipe_with(**fields), LLAMA_8B, None).describe()
        return [line for line in told if line.startswith("untested")]

    assert lines(zero=2) == []
    monkeypatch.setattr(compatibility, "_TESTED", ())
    assert len(lines(zero=2)) == 1
