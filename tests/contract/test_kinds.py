"""What a method or an objective is stands in tables: no code asks for one by its name, and the tables are whole."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raysft.metrics import ALL, METRICS
from raysft.model.methods import METHODS
from raysft.objectives.module import OBJECTIVES
from raysft.recipe import objective_traits, traits
from raysft.recipe.evaluation_sets import measured_by
from raysft.recipe.kinds import KINDS
from raysft.recipe.measures import MEASURES

PACKAGE = Path(__file__).parents[2] / "platform" / "raysft"
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}

TABLES = ("recipe/traits.py", "recipe/objective_traits.py", "model/methods/", "objectives/")
"""The tables, and what acts for each of their kinds."""

ASKED = ("method.kind", ".objective", "objective.kind")


def asks(source: str) -> Iterator[int]:
    """Lines that compare a method or an objective, or match on it."""
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            parts = [node.subject]
        if any(isinstance(part, ast.Attribute) and ast.unparse(part).endswith(ASKED) for part in parts):
            yield parts[0].lineno


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.startswith(TABLES)])
def test_no_kind_is_asked_for_outside_of_the_tables(name: str) -> None:
    assert list(asks(SOURCES[name])) == [], "read recipe/traits.py instead"


@pytest.mark.parametrize(
    "source",
    [
        "if recipe.method.kind == 'lora': pass",
        "x = 'full' != run.recipe.method.kind",
        "y = recipe.method.kind in ('lora',)",
        "match recipe.objective:\n    case 'sft': pass",
        "if recipe.objective.kind == 'dpo': pass",
    ],
)
def test_the_law_can_be_broken(source: str) -> None:
    assert list(asks(source)) == [1]


def test_words_of_a_kind_may_be_printed() -> None:
    assert list(asks("told = f'{recipe.method.kind}, {recipe.objective}'\nif rules.kind == 'pbt': pass")) == []


def test_every_kind_is_in_every_table() -> None:
    assert KINDS["method"].keys() == traits.METHODS.keys() == METHODS.keys()
    assert all(found.traits is traits.METHODS[kind] for kind, found in METHODS.items())


def test_a_measure_has_one_meaning() -> None:
    """Tables by name let a second entry of a name take the first one's place in silence. What is told of held-out
    rows in training and of the exported model by one name is one thing."""
    modes: dict[str, set[str]] = {}
    for section in KINDS["objective"].values():
        for name, mode in section.measures.items():
            modes.setdefault(name, set()).add(mode)
    assert {name for name, found in modes.items() if len(found) > 1} == set()
    shared = {"macro_f1", "ece", "brier", "recall_at_1", "recall_at_10", "mrr"}
    assert modes.keys() & MEASURES.keys() == shared, "an objective's measure has the name of one of all models"
    assert {name for name in shared if modes[name] != {MEASURES[name].better}} == set()
    assert len(METRICS) == len(ALL), "two metrics of one name"
    imported = {module for path in (PACKAGE / "metrics").glob("*.py") if (module := path.stem) != "__init__"}
    told = SOURCES["metrics/__init__.py"]
    helpers = {"calibration", "classes", "estimate", "labelled", "tokens"}
    assert {name for name in imported if f"raysft.metrics.{name} import" not in told} == helpers, "in no table"


def _something(field: str) -> Any:
    """A value of an objective's field by which something is there."""
    return {"names": ("a", "b")} if field == "domains" else 0.5


def test_every_objective_is_in_every_table_and_reads_what_its_traits_say() -> None:
    assert KINDS["objective"].keys() == objective_traits.OBJECTIVES.keys() == OBJECTIVES.keys()
    for kind, section in KINDS["objective"].items():
        own = {"kind": kind} | ({"labels": ("a", "b")} if "labels" in section.model_fields else {})
        more = {field: _something(field) for field in section.needs.values()}
        for given in (section(**own), section(**own, **more)):
            made = OBJECTIVES[kind](given)
            told = objective_traits.OBJECTIVES[kind]
            categories = (told.classes(given), *told.beside(given))
            written = (*told.written(given), *(one.field for one in categories if one.labels))
            assert made.columns == (*written, *told.reference(given))
            assert set(made.step_means) <= set(made.metrics)
            assert made.measures | {"loss"} == set(measured_by(given))


@pytest.mark.parametrize("kind", traits.METHODS)
def test_a_method_is_what_it_says(kind: str) -> None:
    method = traits.METHODS[kind]
    assert {"adapter", "merged"} >= set(method.exports)
    assert ("adapter" in method.exports) is not method.trains_base
    section = KINDS["method"][kind](kind=kind)
    assert method.flops_per_weight(section, 8) == {"full": 6, "freeze": 4.5}.get(kind, 4)
