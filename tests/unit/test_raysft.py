"""`import raysft`: names, laziness, verbs that share a name with a room, and what crosses processes."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

import raysft
from raysft.api import verbs
from raysft.errors import RaysftError, UserError
from raysft.evaluate.sampling import Sampling
from raysft.recipe.schema import Recipe

ROOT = Path(__file__).resolve().parents[2]


def test_every_name_is_there_and_is_told() -> None:
    assert set(raysft.__all__) <= set(dir(raysft))
    for name in raysft.__all__:
        assert inspect.getdoc(getattr(raysft, name)), name
    assert raysft.Recipe is Recipe
    assert raysft.UserError is UserError
    assert raysft.RaysftError is RaysftError
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        raysft.trian  # noqa: B018
    functions = {name for name, _ in inspect.getmembers(verbs, inspect.isfunction) if not name.startswith("_")}
    assert raysft.Sampling is Sampling
    assert functions == set(raysft.__all__) - {"Recipe", "RaysftError", "Sampling", "UserError", "change"}


def test_the_package_crosses_processes_by_name() -> None:
    """A function of a notebook that uses `raysft` is sent to Ray's workers by cloudpickle."""
    assert pickle.loads(cloudpickle.dumps(raysft)) is raysft


def test_the_first_verbs_of_a_session_wait_for_no_torch(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: a\nmodel: {source: a/b}\ndata: {train: x.jsonl}\n")
    program = (
        "import json, sys, raysft\n"
        f"recipe = raysft.load({str(recipe)!r}, {{'train.max_steps': 50}})\n"
        "heavy = [name for name in ('torch', 'ray', 'transformers', 'pyarrow', 'pandas') if name in sys.modules]\n"
        "print(json.dumps([recipe.train.max_steps, heavy, type(raysft.train).__name__]))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform")}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [50, [], "function"]
