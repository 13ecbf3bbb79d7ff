"""Recipes of searches, by their spaces and `tune:` fields."""

from __future__ import annotations

from typing import Any

from replay import search_recipe

from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe

RATE = {"distribution": "loguniform", "low": 1e-4, "high": 1e-2}


RANK = {"distribution": "int", "low": 2, "high": 16}


KIND = {"distribution": "choice", "values": ["full", "lora"]}


CONDITIONAL = {"method.kind": KIND, "method.rank": {**RANK, "when": {"method.kind": "lora"}}}


FREE: dict[str, Any] = {"optimizer.learning_rate": RATE}


def recipe(space: dict[str, Any] | None = None, **tune: Any) -> Recipe:
    return search_recipe(space or {"optimizer.learning_rate": RATE}, **({"budget": {"trials": 4}} | tune))


def lora(space: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """A search that can be fused; changes: `tune__field`, or sections."""
    tune = {name.removeprefix("tune__"): changes.pop(name) for name in list(changes) if name.startswith("tune__")}
    fields = recipe(space or {"optimizer.learning_rate": RATE, "method.rank": RANK}, **tune).model_dump(mode="json")
    sections = {name: fields[name] | value for name, value in ({"method": {"kind": "lora"}} | changes).items()}
    return parse_recipe(fields | sections)
