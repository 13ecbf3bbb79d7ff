from __future__ import annotations

import pytest

from raysft.data.prepare import fingerprint, prepare
from raysft.errors import ClusterError
from raysft.recipe.schema import DataSection, ModelSection, Recipe


def test_without_ray_it_says_so(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests of the session may have started it
    recipe = Recipe(name="r", model=ModelSection(source="x"), data=DataSection(train=("x",)))
    with pytest.raises(ClusterError, match="Ray, which is not running"):
        prepare(recipe)


def test_the_fingerprint_ignores_order_of_keys_and_sees_values():
    one = fingerprint({"a": 1, "b": {"c": [1, 2], "d": "é"}})
    assert one == fingerprint({"b": {"d": "é", "c": [1, 2]}, "a": 1})
    assert one != fingerprint({"a": 1, "b": {"c": [2, 1], "d": "é"}})
    assert len(one) == 64
