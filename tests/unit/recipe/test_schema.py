"""A recipe as a value: its defaults, its round trip, frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from fakes import recipe_content
from pydantic import ValidationError
from recipe_files import TEXT, load, refuse

from raysft.recipe.load import parse_recipe


def test_a_short_recipe_is_whole_by_its_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path, TEXT)
    assert recipe.name == "tiny"
    assert recipe.data.train == ("data.jsonl",)
    assert recipe.method.kind == "full"
    assert recipe.train.micro_batch_rows == 1


def test_a_recipe_survives_a_round_trip_through_yaml(tmp_path: Path) -> None:
    recipe = parse_recipe(recipe_content(optimizer={"learning_rate": 3e-7}, data={"eval_fraction": 0.1}))
    assert load(tmp_path, yaml.safe_dump(recipe.model_dump(mode="json"))) == recipe


def test_missing_fields_are_named(tmp_path: Path) -> None:
    message = refuse(tmp_path, "name: x\ndata: {}\n")
    assert "model is missing" in message
    assert "data.train is missing" in message


def test_a_recipe_is_frozen(tmp_path: Path) -> None:
    recipe = load(tmp_path, TEXT)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.epochs = 5
