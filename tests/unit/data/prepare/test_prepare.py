from __future__ import annotations

import pytest

from raysft.data.prepare.prepare import prepare
from raysft.errors import ClusterError
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.model import ModelSection


def test_without_ray_it_says_so(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests of the session may have started it
    recipe = Recipe(name="r", model=ModelSection(source="x"), data=DataSection(train=("x",)))
    with pytest.raises(ClusterError, match="Ray, which is not running"):
        prepare(recipe)
