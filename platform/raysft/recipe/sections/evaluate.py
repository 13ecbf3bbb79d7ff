"""`evaluate:`: what is measured on held-out data."""

from __future__ import annotations

from pydantic import Field

from raysft.recipe.cleaning import Section


class EvaluateSection(Section):
    """What is measured on held-out data."""

    every_steps: int | None = Field(
        None, ge=1, description="Steps between two held-out losses. Default: only before and after."
    )
    max_rows: int = Field(256, ge=1, description="Held-out rows of one evaluation, from the start of the set.")
    generate_prompts: int = Field(
        0, ge=0, description="Held-out prompts answered greedily before and after; scored by exact match."
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest generated answer, in tokens.")
