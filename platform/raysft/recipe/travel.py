"""What of a recipe does not travel to another machine: paths that are seen from here only, secrets in addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from raysft.errors import RecipeError
from raysft.recipe.cleaning import Contamination, HarmfulWords, Synonyms
from raysft.recipe.objective_traits import teachers_of
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.schema import Recipe
from raysft.recipe.secrets import holds_secret
from raysft.recipe.traits import method_of


def locations(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(field, what stands there) of everything that may be a path; of the same recipe in the same order."""
    model, data = recipe.model, recipe.data
    yield "storage", recipe.storage
    yield "model.source", model.source
    if model.tokenizer:
        yield "model.tokenizer", model.tokenizer
    for source in data.train:
        yield from (("data.train", one) for one in ([source] if isinstance(source, str) else source.path))
    yield from (("data.eval", one) for one in data.eval)
    for name, one in recipe.evaluate.sets.items():
        yield from ((f"evaluate.sets.{name}.data", location) for location in one.data)
    if recipe.evaluate.bertscore.model:
        yield "evaluate.bertscore.model", recipe.evaluate.bertscore.model
    yield from (("evaluate.toxicity.lists", one) for one in recipe.evaluate.toxicity.lists)
    yield "data.template", data.template
    yield from (("objective.teachers", teacher) for teacher in teachers_of(recipe))
    yield from ((f"method.{name}", place) for name, place in method_of(recipe).places(recipe.method).items())
    for rule in data.rules:
        files = (
            rule.lists.values() if isinstance(rule, HarmfulWords)
            else rule.files if isinstance(rule, Contamination)
            else [rule.table] if isinstance(rule, Synonyms)
            else []
        )  # fmt: skip
        yield from (("data.rules", one) for one in files)


def refuse_unseen(recipe: Recipe, is_seen: Callable[[str], bool], expected: str) -> None:
    """Refuse a recipe with paths that the cluster cannot see, field by field. Raises RecipeError.

    is_seen: of an absolute path of this machine. expected: what would be seen, for the message.
    """
    absolute = locations(with_absolute_paths(recipe))
    _refuse([f"{field}: {location}" for field, location in absolute if not is_seen(location)], expected)


def refuse_relative(recipe: Recipe, expected: str) -> None:
    """Refuse a recipe with paths that mean a place on this machine: relative ones, and `~`. Raises RecipeError."""
    pairs = zip(locations(recipe), locations(with_absolute_paths(recipe)), strict=True)
    _refuse([f"{field}: {here}" for (field, here), (_, absolute) in pairs if here != absolute], expected)


def _refuse(strange: list[str], expected: str) -> None:
    if strange:
        raise RecipeError(
            "the cluster cannot see paths of this machine",
            got="; ".join(strange),
            expected=expected,
            fix="put these files where the cluster sees them, and name them so in the recipe",
        )


def refuse_secrets(recipe: Recipe) -> None:
    """Refuse a recipe whose addresses hold a password, a key or a signature: where it travels, others read it.

    Raises RecipeError that names the fields.
    """
    found = sorted(set(_secrets(recipe.model_dump(mode="json", exclude_unset=True), "")))
    if found:
        raise RecipeError(
            "the recipe holds a secret, and everybody who may see the cluster's jobs could read it",
            got=f"a password, key or signature in the address of {', '.join(found)}",
            expected="addresses without; a name alone may stand there (postgresql://USER@HOST/NAME)",
            fix="give the cluster's nodes their credentials when they start, or pass a variable by name "
            "(--env PGPASSWORD)",
        )


def _secrets(value: Any, place: str) -> Iterator[str]:
    """Dotted names of the texts that hold one."""
    if isinstance(value, str):
        yield from [place] if holds_secret(value) else []
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from _secrets(child, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _secrets(child, place)
