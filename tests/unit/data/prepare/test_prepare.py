from __future__ import annotations

import pytest

from raysft.data.prepare.prepare import _set_store, prepare
from raysft.errors import ClusterError, DataError
from raysft.recipe.evaluation_sets import set_sources
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.model import ModelSection


def test_without_ray_it_says_so(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests of the session may have started it
    recipe = Recipe(name="r", model=ModelSection(source="x"), data=DataSection(train=("x",)))
    with pytest.raises(ClusterError, match="Ray, which is not running"):
        prepare(recipe)


def test_a_set_of_another_format_than_the_data_is_told_where_to_say_so(monkeypatch, tmp_path):
    """A set takes data.format where it says none of its own."""
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    recipe = parse_recipe(
        {
            "name": "r",
            "model": {"source": str(tmp_path)},
            "data": {"train": str(tmp_path / "critiques.jsonl"), "format": "critique"},
            "evaluate": {"sets": {"sums": {"data": str(held_out), "columns": {"output": "answer"}}}},
        }
    )
    with pytest.raises(DataError) as caught:
        _set_store(recipe, "sums", set_sources(recipe)["sums"], lambda part: None)
    assert caught.value.what.startswith("evaluate.sets.sums.columns maps 'output'")
    assert "or set evaluate.sets.sums.format, which is data.format" in caught.value.fix
