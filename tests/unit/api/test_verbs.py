"""The verbs of `import raysft`: their errors, and that they stay verbs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from commands import write_material

import raysft
from raysft.api import verbs
from raysft.errors import ModelError, UserError


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


def test_a_verb_stays_a_verb_when_a_room_of_its_name_is_imported() -> None:
    importlib.import_module("raysft.train.state")
    importlib.import_module("raysft.evaluate.exported")
    assert raysft.train is verbs.train
    assert raysft.evaluate is verbs.evaluate
    rooms = [sys.modules[f"raysft.{name}"] for name in ("train", "evaluate")]
    assert all(isinstance(room, ModuleType) for room in rooms)
    from raysft.train import state

    assert state.__name__ == "raysft.train.state"
