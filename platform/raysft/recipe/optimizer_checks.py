"""What an optimizer goes with. Pure."""

from __future__ import annotations

from raysft.errors import RecipeError
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.optimizer import MuonOptimizer
from raysft.recipe.traits import METHODS, method_of


def check_optimizer(recipe: Recipe) -> None:
    """What moves matrices as a whole needs them whole. Raises RecipeError."""
    section, parallel = recipe.optimizer, recipe.parallel
    if not section.needs_whole:
        return
    is_muon = isinstance(section, MuonOptimizer)
    obstacles = {
        f"parallel.tensor: {parallel.tensor} (it cuts a matrix)": parallel.tensor > 1,
        f"parallel.pipeline: {parallel.pipeline} (its stages hold unlike matrices)": parallel.pipeline > 1,
        f"parallel.offload: {parallel.offload}": parallel.offload != "none",
        f"method.kind: {recipe.method.kind}": is_muon and "muon" not in method_of(recipe).allows,
        "parallel.auto (it may choose a split that cuts them)": parallel.auto,
    }
    if found := [words for words, stands in obstacles.items() if stands]:
        kinds = ", ".join(kind for kind, traits in METHODS.items() if not is_muon or "muon" in traits.allows)
        raise RecipeError(
            section.needs_whole,
            got=f"optimizer.kind: {section.kind}, {', '.join(found)}",
            expected=f"method.kind: one of {kinds}; ZeRO 0 to 3 with data and sequence parallelism",
            fix="set optimizer.kind: adamw, or change that",
        )
