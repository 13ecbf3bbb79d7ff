"""A recipe as a file, read or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysft.errors import RecipeError
from raysft.recipe.load import load_recipe

TEXT = """
name: tiny
model: {source: some/model}
data: {train: data.jsonl}
"""


def load(tmp_path: Path, text: str, *overrides: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def refuse(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, *overrides)
    assert caught.value.fix
    return str(caught.value)
