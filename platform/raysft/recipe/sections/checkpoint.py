"""`checkpoint:`: when the state is committed."""

from __future__ import annotations

from pydantic import Field

from raysft.recipe.cleaning import Section


class CheckpointSection(Section):
    """When the state is committed to storage."""

    every_steps: int = Field(100, ge=1, description="Optimizer steps between two commits.")
    keep_last: int = Field(2, ge=1, description="How many of the newest commits are kept.")
    keep_every_steps: int | None = Field(None, ge=1, description="Commits of every so many steps are kept as well.")
    keep_best: bool = Field(False, description="The commit with the lowest held-out loss is kept as well.")
