"""YAML plus `--set a.b=value` -> Recipe. Every mistake names the field, the line or the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from raysft.errors import RecipeError
from raysft.recipe.rules import Contamination, HarmfulWords, Rule, Synonyms
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import SourceSection
from raysft.recipe.yaml_text import MOST_BYTES, parse_yaml


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
        problems = [_describe(problem) for problem in error.errors()]
        schema = "`raysft schema` prints every field with its type and meaning"
        if len(problems) == 1:
            what, got, expected, hint = problems[0]
            fix = f"{hint} {schema}".strip()
            raise RecipeError(f"the recipe is not valid: {what}", got=got, expected=expected, fix=fix) from None
        raise RecipeError(
            f"the recipe is not valid in {len(problems)} places",
            got="; ".join(_in_one_line(*problem) for problem in problems),
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


def _describe(problem: Any) -> tuple[str, str, str, str]:
    """One pydantic problem in our words: (what, got, expected, hint)."""
    location = [str(part) for part in problem["loc"]]
    dotted = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join([*location[:-1], close[0]])}?" if close else ""
        return f"unknown key {dotted}", _short(problem["input"]), f"one of {', '.join(known)}", hint
    if problem["type"] == "missing":
        return f"{dotted} is missing", "nothing", f"a value for {dotted}", ""
    expected = _EXPECTED.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
    return f"{dotted} is wrong", _short(problem["input"]), expected, ""


_EXPECTED = {
    "tuple_type": "a string or a list of strings",
    "too_short": "at least one",
    "dict_type": "a mapping",
    "model_type": "a section with fields of its own",
}
"""pydantic's kinds of problems that speak of Python types, in the words of a recipe."""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _in_one_line(what: str, got: str, expected: str, hint: str) -> str:
    parts = [("got ", got), ("expected ", expected), ("", hint)]
    return ", ".join([what, *(label + text for label, text in parts if text)])


def _fields_at(location: Sequence[str]) -> list[str]:
    section: type[BaseModel] = Recipe
    for key in location:
        annotation = section.model_fields[key].annotation if key in section.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Every relative path made absolute from here: Ray's workers run in other directories.

    A model source that is no local directory (a hub id, run://, random) stays as it is.
    """
    model, data = recipe.model, recipe.data
    return recipe.model_copy(
        update={
            "storage": _absolute(recipe.storage),
            "model": model.model_copy(
                update={
                    "source": _absolute_if_there(model.source),
                    "tokenizer": model.tokenizer and _absolute_if_there(model.tokenizer),
                }
            ),
            "data": data.model_copy(
                update={
                    "train": tuple(map(_absolute_source, data.train)),
                    "eval": tuple(map(_absolute, data.eval)),
                    "template": data.template if Path(data.template).is_dir() else _absolute_if_there(data.template),
                    "rules": tuple(map(_absolute_rule, data.rules)),
                }
            ),
        }
    )


def _absolute_source(source: str | SourceSection) -> str | SourceSection:
    if isinstance(source, str):
        return _absolute(source)
    return source.model_copy(update={"path": tuple(map(_absolute, source.path))})


def _absolute_rule(rule: Rule) -> Rule:
    """A rule with its files' paths made absolute."""
    if isinstance(rule, HarmfulWords):
        return rule.model_copy(update={"lists": {name: _absolute(file) for name, file in rule.lists.items()}})
    if isinstance(rule, Contamination):
        return rule.model_copy(update={"files": tuple(map(_absolute, rule.files))})
    if isinstance(rule, Synonyms):
        return rule.model_copy(update={"table": _absolute(rule.table)})
    return rule


def _absolute(location: str) -> str:
    return location if "://" in location else str(Path(location).expanduser().absolute())


def _absolute_if_there(location: str) -> str:
    looks_local = location.startswith((".", "/", "~")) or Path(location).exists()
    return _absolute(location) if looks_local else location
