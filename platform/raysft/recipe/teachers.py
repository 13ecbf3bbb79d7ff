"""The models that an objective learns from, each as a recipe of its own. Pure."""

from __future__ import annotations

from raysft.recipe.change import change
from raysft.recipe.objective_traits import teachers_of
from raysft.recipe.schema import Recipe


def teacher_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipe with each teacher as its model, and with the tokenizer that is there."""
    tokenizer = recipe.model.tokenizer or recipe.model.source
    alone = {"model.config": None, "model.revision": None, "model.tokenizer": tokenizer, "objective": "sft"}
    return [change(recipe, {**alone, "model.source": teacher}) for teacher in teachers_of(recipe)]
