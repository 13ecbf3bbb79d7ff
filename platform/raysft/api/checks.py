"""`raysft.check`: a recipe that nothing stops, as far as can be known before its data are read."""

from __future__ import annotations

from dataclasses import dataclass

from raysft.api.tables import table_html
from raysft.observe.console import printable
from raysft.recipe.schema import Recipe
from raysft.run import check as run_check
from raysft.search.space import search_line


@dataclass(frozen=True)
class Checked:
    """What a run of a recipe would be."""

    recipe: Recipe
    """With absolute paths."""
    model_type: str
    total_steps: int | None
    """None: known when the data are prepared (`train.epochs`)."""
    location: str
    """The run's directory, there or not."""
    lines: tuple[str, ...]
    """All that is known, for a terminal."""

    def __str__(self) -> str:
        return printable("\n".join(self.lines))

    def _repr_html_(self) -> str:
        return table_html(f"check of {self.recipe.name}", (), [(line[:13].strip(), line[13:]) for line in self.lines])


def check(recipe: Recipe) -> Checked:
    """See verbs.check."""
    found = run_check.check(recipe)
    search = () if recipe.tune is None else (search_line(recipe),)
    return Checked(found.recipe, found.model_type, found.total_steps, found.run, (*found.lines, *search))
