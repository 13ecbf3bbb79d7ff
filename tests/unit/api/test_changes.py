"""Changes of a recipe as Python values: what goes in comes out, whatever YAML would make of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raysft
from raysft.api.changes import assignments
from raysft.errors import RecipeError
from raysft.recipe.sections.method import LoraMethod
from raysft.recipe.yaml_text import parse_yaml

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
)


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    (assignment,) = assignments({"a.b": value})
    name, _, text = assignment.partition("=")
    found = parse_yaml(text, "test")
    assert name == "a.b"
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["1e-3", "yes", "null", "~", "a: b", "2026-01-01", "[", "\u2028\x85\x9b", "#", "\t", ""]
)
def test_a_text_stays_a_text(text: str) -> None:
    (assignment,) = assignments({"name": text})
    assert parse_yaml(assignment.partition("=")[2], "test") == text


def test_paths_and_sections_are_values(tmp_path: Path) -> None:
    changes = {"data.train": tmp_path / "x.jsonl", "method": LoraMethod(kind="lora"), "a": (1, 2)}
    found = [parse_yaml(text.partition("=")[2], "test") for text in assignments(changes)]
    assert found == [str(tmp_path / "x.jsonl"), {"kind": "lora"}, [1, 2]]


def test_a_number_that_is_none_is_refused_by_the_field(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: a\nmodel: {source: a/b}\ndata: {train: x.jsonl}\n")
    for value in (math.inf, math.nan):
        with pytest.raises(RecipeError, match=r"optimizer\.learning_rate"):
            raysft.load(path, {"optimizer.learning_rate": value})
    with pytest.raises(RecipeError, match=r"did you mean train\.max_steps"):
        raysft.load(path, {"train.max_step": 5})
    recipe = raysft.load(path, ["seed=3", "optimizer.learning_rate=1e-3"])
    assert (recipe.seed, recipe.optimizer.learning_rate) == (3, 1e-3)


class Odd:
    """No plain value."""


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ("train.max_steps=5", "cannot be read"),
        (5, "cannot be read"),
        ([5], "cannot be read"),
        ({5: 5}, "the key 5"),
        ({"a=b": 5}, "the key 'a=b'"),
        ({"a": Odd()}, "the value of a"),
        ({"a": {1, 2}}, "the value of a"),
    ],
)
def test_what_no_recipe_can_hold(changes: Any, word: str) -> None:
    with pytest.raises(RecipeError) as caught:
        assignments(changes)
    assert word in str(caught.value)
    assert caught.value.fix
