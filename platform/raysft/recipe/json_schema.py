"""The JSON schema of a recipe, for editors: what the loader accepts, with every field's meaning.

In a recipe, `# yaml-language-server: $schema=recipe.schema.json` has editors complete and check it.
"""

from __future__ import annotations

from typing import Any

from raysft.recipe.schema import Recipe


def recipe_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12, of a recipe file as the loader reads it."""
    schema = Recipe.model_json_schema()
    properties = {"$schema": {"type": "string", "description": "Where an editor finds this schema."}}
    for name, field in schema["properties"].items():
        section = schema["$defs"].get(str(field.get("$ref", "")).rpartition("/")[2], {})
        properties[name] = {"description": section["description"], **field} if "description" in section else field
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "properties": properties}
