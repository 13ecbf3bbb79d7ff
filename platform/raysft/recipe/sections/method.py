"""`method:`: which parameters are trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raysft.recipe.cleaning import OneOrMany, Section


class MethodSection(Section):
    """Which parameters are trained."""

    kind: Literal["full", "lora"] = Field(
        "full", description="full: all parameters; lora: low-rank adapters (arXiv:2106.09685) on a frozen model."
    )
    rank: int = Field(16, ge=1, description="LoRA rank r: the width between the two matrices of an adapter.")
    alpha: float = Field(32.0, gt=0, description="LoRA alpha; the adapter's output is scaled by alpha / rank.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of an adapter's inputs that is dropped at random (lora)."
    )
    target_modules: OneOrMany = Field(
        ("all-linear",), description="Names of the linear layers that get an adapter, or `all-linear`."
    )
