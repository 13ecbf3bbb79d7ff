"""`export:`: what a finished run leaves."""

from __future__ import annotations

from pydantic import Field

from raysft.recipe.cleaning import Section


class ExportSection(Section):
    """What a finished run leaves for others to load."""

    merged: bool = Field(
        True,
        description="A whole model for `transformers`, adapters merged in. Virtual tokens cannot be: their adapter "
        "is exported alone.",
    )
    adapter: bool = Field(True, description="The bare adapter for `peft`, where the method has one.")
