"""`checkpoint:`: when the state is committed."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from raysft.recipe.cleaning import Section
from raysft.recipe.measures import full_name


class CheckpointSection(Section):
    """When the state is committed to storage."""

    every_steps: int = Field(100, ge=1, description="Optimizer steps between two commits.")
    keep_last: int = Field(2, ge=1, description="How many of the newest commits are kept.")
    keep_every_steps: int | None = Field(None, ge=1, description="Commits of every so many steps are kept as well.")
    keep_best: bool = Field(False, description="The best commit by the held-out data is kept as well.")
    keep_best_by: Annotated[str, AfterValidator(full_name)] | None = Field(
        None,
        description="What the best commit is known by, SET/MEASURE: held_out/accuracy, dev/loss; keeps it as "
        "keep_best does, whose measure is held_out/loss.",
    )
