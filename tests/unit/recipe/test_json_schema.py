"""The JSON schema and the loader agree: on our recipes, on the guide's, on values at the edge of a field."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import recipe_content
from jsonschema import Draft202012Validator

from raysft.errors import RecipeError
from raysft.recipe.json_schema import recipe_schema
from raysft.recipe.load import load_recipe, parse_recipe
from raysft.recipe.schema import Recipe
from raysft.recipe.yaml_text import parse_yaml

ROOT = Path(__file__).parents[3]
SCHEMA = recipe_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPETS = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


def wrong(content: Any) -> list[str]:
    """What an editor would underline."""
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(content)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_our_recipes_are_valid(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert wrong(yaml.safe_load(text)) == []
    load_recipe(path)
    assert "# yaml-language-server: $schema=" in text


@pytest.mark.parametrize("text", SNIPPETS)
def test_the_guides_snippets_are_valid(text: str) -> None:
    """A snippet is a recipe, or some sections of one (`...` for what is left out)."""
    content = parse_yaml(text.replace("...", ""), "a snippet")
    if not isinstance(content, dict) or not content.keys() <= Recipe.model_fields.keys() | {"$schema"}:
        pytest.skip("no part of a recipe")
    whole = {**copy.deepcopy(recipe_content()), "name": "snippet"}
    for name, section in content.items():
        old = whole.get(name)
        whole[name] = {**old, **section} if isinstance(old, dict) and isinstance(section, dict) else section
    if whole["model"].get("source") != "random":
        whole["model"].pop("config", None)
    assert wrong(whole) == []
    parse_recipe({name: value for name, value in whole.items() if name != "$schema"})


@pytest.mark.parametrize(
    ("section", "value", "is_right"),
    [
        ("data.train", "a.jsonl", True),
        ("data.train", ["a.jsonl", {"path": "b", "weight": 1}], True),
        ("data.train", {"path": ["a", "b"]}, True),
        ("data.train", [], False),
        ("data.train", [[]], False),
        ("data.train", {"paths": "a"}, False),
        ("data.train", {"path": []}, False),
        ("data.eval", "held.jsonl", True),
        ("data.eval", [], True),
        ("data.eval", 3, False),
        ("method", {"kind": "lora", "target_modules": "q_proj"}, True),
        ("method", {"kind": "lora", "target_modules": ["q_proj", "v_proj"]}, True),
        ("method", {"kind": "lora", "rank": 0}, False),
        ("method", {"kind": "lora"}, True),
        ("method", {"kind": "full"}, True),
        ("method", {}, True),
        ("method", {"kind": "full", "rank": 8}, False),
        ("method", {"rank": 8}, False),
        ("method", {"kind": "lorra"}, False),
        ("method", "lora", False),
        ("cluster.workers", {"min": 1, "max": 4}, True),
        ("cluster.workers", {"min": 1}, False),
        ("cluster.workers", {"min": 1, "max": 4, "often": 2}, False),
        ("cluster.workers", 0, False),
        ("train.max_steps", None, True),
        ("train.max_steps", "3", False),
        ("optimizer.learning_rate", 1, True),
        ("optimizer.learning_rate", "1e-3", False),
        ("data.rules", [{"rule": "length", "max_answer_chars": 9}], True),
        ("data.rules", [{"rule": "lenght"}], False),
        ("data.rules", {"rule": "length"}, False),
        ("name", "a b", False),
        ("parallel.zero", True, False),
        ("colour", "red", False),
    ],
)
def test_both_say_the_same(section: str, value: object, is_right: bool) -> None:
    content = recipe_content()
    *sections, last = section.split(".")
    node = content
    for key in sections:
        node = node.setdefault(key, {})
    node[last] = value
    assert (wrong(content) == []) is is_right
    if is_right:
        parse_recipe(content)
        return
    with pytest.raises(RecipeError):
        parse_recipe(content)


SPACE = {"optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-5, "high": 1e-2}}


@pytest.mark.parametrize(
    ("tune", "is_right"),
    [
        ({"space": SPACE}, True),
        ({"space": SPACE, "scheduler": "asha", "metrics": "held_out_loss"}, True),
        (
            {"space": SPACE, "scheduler": {"kind": "pbt", "min_steps": 5}, "metrics": ["train_loss", "peak_bytes"]},
            True,
        ),
        ({"space": SPACE, "start": [{"optimizer.learning_rate": 1e-3}], "budget": {"trials": 3}}, True),
        ({"space": SPACE, "scheduler": "asah"}, False),
        ({"space": {}}, False),
        ({"space": SPACE, "metrics": []}, False),
        ({"space": {"seed": {"distribution": "uniform", "low": 1}}}, False),
        (None, True),
    ],
)
def test_both_say_the_same_of_a_search(tune: object, is_right: bool) -> None:
    content = recipe_content(tune=tune)
    assert (wrong(content) == []) is is_right
    if is_right:
        parse_recipe(content)
        return
    with pytest.raises(RecipeError):
        parse_recipe(content)


def test_every_section_and_field_says_what_it_means() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    silent = [name for name, field in SCHEMA["properties"].items() if not field.get("description")]
    assert silent == []
    for definition in SCHEMA["$defs"].values():
        fields = definition.get("properties", {})
        assert [name for name, field in fields.items() if "description" not in field and "$ref" not in field] in (
            [],
            ["rule"],
            ["distribution"],
        )


def test_an_editors_schema_line_is_no_field(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("$schema: recipe.schema.json\nname: tiny\nmodel: {source: a/b}\ndata: {train: x}\n")
    assert load_recipe(path).name == "tiny"
    assert wrong(yaml.safe_load(path.read_text())) == []
