"""YAML plus `--set a.b=value` -> Recipe. Every mistake names the field, the line or the nearest key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raysft.errors import RecipeError
from raysft.recipe.mistakes import mistakes
from raysft.recipe.schema import Recipe
from raysft.recipe.yaml_text import MOST_BYTES, parse_yaml


def expect_recipe(given: object) -> Recipe:
    """What was given, where it is a recipe. Raises RecipeError."""
    if isinstance(given, Recipe):
        return given
    raise RecipeError(
        "this is no recipe",
        got=f"{type(given).__name__}: {str(given)[:80]!r}",
        expected="a Recipe, as raysft.load gives it",
        fix='recipe = raysft.load("recipe.yaml")',
    )


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `a.b=value` overrides in their order. Raises RecipeError."""
    try:
        with Path(path).open("rb") as stream:
            text = stream.read(MOST_BYTES + 1).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"cannot read the recipe {path}",
            got=str(error),
            expected="a YAML file in UTF-8",
            fix="check the path; `raysft schema` prints what a recipe may hold",
        ) from error
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise RecipeError(
            f"the recipe {path} is no mapping",
            got=type(content).__name__ if content is not None else "an empty file",
            expected="`name:`, `model:`, `data:` and further sections",
            fix="start from a file in jobs/recipes/",
        )
    content.pop("$schema", None)  # of editors
    for override in overrides:
        _apply_override(content, override)
    return parse_recipe(content)


def parse_recipe(content: dict[str, Any]) -> Recipe:
    """A mapping -> Recipe. Raises RecipeError with every wrong field in one message."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        found = mistakes(error)
        schema = "`raysft schema` prints every field with its type and meaning"
        if len(found) == 1:
            one = found[0]
            fix = f"{one.hint} {schema}".strip()
            raise RecipeError(
                f"the recipe is not valid: {one.what}", got=one.got, expected=one.expected, fix=fix
            ) from None
        raise RecipeError(
            f"the recipe is not valid in {len(found)} places",
            got="; ".join(mistake.in_one_line() for mistake in found),
            expected="fields as the schema has them",
            fix=schema,
        ) from None


def _apply_override(content: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise RecipeError(
            f"cannot read the override {override!r}",
            got="no `=`" if not separator else "an empty field name",
            expected="--set section.field=value",
            fix="for example --set optimizer.learning_rate=1e-4",
        )
    node = content
    for depth, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise RecipeError(
                f"--set {override}: {'.'.join(keys[: depth + 1])} is no section",
                got=repr(child),
                expected="a section with fields",
                fix="name a field that exists (`raysft schema`)",
            )
        node = child
    node[keys[-1]] = parse_yaml(text, f"--set {override}")
