"""The verbs of `import raysft`: their errors, and that they stay verbs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from commands import write_material

import raysft
from raysft.api import verbs
from raysft.errors import ModelError, RecipeError, UserError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("user"))


def test_errors_are_the_same_tree(path: Path) -> None:
    with pytest.raises(UserError) as caught:
        raysft.evaluate(raysft.load(path))
    assert "no model to evaluate" in str(caught.value)
    with pytest.raises(ModelError):
        raysft.preview(raysft.load(path, {"model.tokenizer": "no-tokenizer"}))
    with pytest.raises(UserError, match="tune"):
        raysft.tune(raysft.load(path))


@pytest.mark.parametrize(
    "verb", [raysft.preview, raysft.plan, raysft.check, raysft.train, raysft.evaluate, raysft.tune, raysft.study]
)
@pytest.mark.parametrize("given", ["recipe.yaml", None, {"name": "x"}])
def test_what_is_no_recipe_is_told(verb: Callable[[Any], Any], given: Any) -> None:
    with pytest.raises(RecipeError, match="this is no recipe") as caught:
        verb(given)
    assert "raysft.load" in caught.value.fix


def test_a_verb_stays_a_verb_when_a_room_of_its_name_is_imported() -> None:
    importlib.import_module("raysft.train.state")
    importlib.import_module("raysft.evaluate.exported")
    assert raysft.train is verbs.train
    assert raysft.evaluate is verbs.evaluate
    rooms = [sys.modules[f"raysft.{name}"] for name in ("train", "evaluate")]
    assert all(isinstance(room, ModuleType) for room in rooms)
    from raysft.train import state

    assert state.__name__ == "raysft.train.state"
