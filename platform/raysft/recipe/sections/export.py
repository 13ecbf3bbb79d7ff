"""`export:`: what a finished run leaves."""

from __future__ import annotations

from pydantic import Field

from raysft.recipe.cleaning import Section


class ExportSection(Section):
    """What a finished run leaves for others to load."""

    merged: bool = Field(True, description="A whole model for `transformers` (LoRA merged in).")
    adapter: bool = Field(True, description="With LoRA: the bare adapter for `peft`.")
