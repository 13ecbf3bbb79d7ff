"""Another recipe from one, by dotted names: `change(recipe, {"train.max_steps": 50})`, validated as a file is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from raysft.errors import RecipeError
from raysft.recipe.kinds import KINDS
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe


def change(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with these fields: {`section.field`: value}; a key of a mapping is named as a field is.

    Sections that no name leads into are kept as they are. Of a section that gets another `kind`, the fields stay
    that both kinds have. Raises RecipeError, with all that is wrong in one message.
    """
    return parse_recipe(_changed(recipe, changes, ""))


def _changed(section: BaseModel | Mapping[str, Any], changes: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The fields that the section was given, and the changes, as a mapping to be validated."""
    values, fields = dict(section), _given(section)
    inner: dict[str, dict[str, Any]] = {}
    for dotted, value in changes.items():
        head, _, rest = dotted.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            fields[head] = value
    for head, more in inner.items():
        old = fields.get(head, values.get(head))
        where = f"{place}{head}"
        if not isinstance(old, BaseModel | Mapping):
            raise RecipeError(
                f"{where} has no fields",
                got=f"{where}.{next(iter(more))}, and {where}: {old!r}",
                expected="a section with fields",
                fix="name a field that exists (`raysft schema`)",
            )
        if where in KINDS and more.get("kind") in KINDS[where]:
            kept = KINDS[where][more["kind"]].model_fields
            old = {name: value for name, value in _given(old).items() if name in kept}
        fields[head] = _changed(old, more, f"{where}.")
    return fields


def _given(section: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a section that are not left to their defaults."""
    if isinstance(section, BaseModel):
        return {name: value for name, value in section if name in section.model_fields_set}
    return dict(section)
