"""Sections of which there is one for each kind, told apart by `kind`: which kind has which fields.

A field of another kind does not exist: it is refused in a new recipe, and passed over in a record of an earlier
version, which took it and did nothing with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

from raysft.recipe.schema import Recipe

KINDS: dict[str, dict[str, type[BaseModel]]] = {
    name: {get_args(one.model_fields["kind"].annotation)[0]: one for one in get_args(info.annotation)}
    for name, info in Recipe.model_fields.items()
    if info.discriminator == "kind"
}
"""{section of a recipe: {kind: its fields}}."""


def default_kind(section: str) -> str:
    """The kind of a section that a recipe does not name."""
    return str(Recipe.model_fields[section].default.kind)


def kinds_with(section: str, field: str) -> list[str]:
    """The kinds that have a field."""
    return [kind for kind, fields in KINDS.get(section, {}).items() if field in fields.model_fields]


def is_of_another_kind(dotted: str, leaves: Mapping[str, Any]) -> bool:
    """Does the section's kind, as these leaves say it, lack what another kind has? leaves: {dotted name: value}."""
    section, _, field = dotted.partition(".")
    kind = leaves.get(f"{section}.kind", default_kind(section)) if section in KINDS else None
    if section not in KINDS or kind not in KINDS[section] or not field:
        return False
    name = field.partition(".")[0]
    return name not in KINDS[section][kind].model_fields and bool(kinds_with(section, name))


def without_other_kinds(content: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as an earlier version wrote it, as a mapping, without the fields that its kinds do not have."""
    found = dict(content)
    for section in KINDS.keys() & content.keys():
        fields = content[section]
        if isinstance(fields, str):  # its kind alone
            found[section] = {"kind": fields}
        if isinstance(fields, Mapping):
            leaves = {f"{section}.{name}": value for name, value in fields.items()}
            found[section] = {
                name: value for name, value in fields.items() if not is_of_another_kind(f"{section}.{name}", leaves)
            }
    return found
