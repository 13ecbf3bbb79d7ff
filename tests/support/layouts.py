"""Recipes by their layout, and the facts of an 8B model."""

from __future__ import annotations

from fakes import make_recipe

from raysft.recipe.facts import ModelFacts
from raysft.recipe.schema import Recipe

LLAMA_8B = ModelFacts(
    model_type="llama",
    num_layers=32,
    hidden_size=4096,
    vocab_size=128256,
    max_tokens=8192,
    num_parameters=7_504_658_432,
    attention_size=4096,
    num_heads=32,
    num_kv_heads=8,
)


def recipe_with(workers: int = 8, rows: int = 64, method: str = "full", **parallel: int) -> Recipe:
    return make_recipe(
        cluster={"workers": workers}, train={"rows_per_step": rows}, parallel=parallel, method={"kind": method}
    )
