"""`method:`: which parameters are trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raysft.recipe.rules import OneOrMany, Section


class MethodSection(Section):
    """Which parameters are trained."""

    kind: Literal["full", "lora"] = Field("full", description="All parameters, or low-rank adapters.")
    rank: int = Field(16, ge=1, description="LoRA rank r.")
    alpha: float = Field(32.0, gt=0, description="LoRA alpha; the adapter's output is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: OneOrMany = Field(
        ("all-linear",), description="Names of the linear layers that get an adapter, or `all-linear`."
    )
