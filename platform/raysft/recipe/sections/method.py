"""`method:`: which parameters are trained. One section for each kind, told apart by `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from raysft.recipe.cleaning import OneOrMany, Section


class FullMethod(Section):
    """All parameters are trained."""

    kind: Literal["full"] = Field("full", description="The kind that is meant where none is named.")


class LoraMethod(Section):
    """Low-rank adapters (arXiv:2106.09685) on a frozen model."""

    kind: Literal["lora"] = Field(description="Names this kind.")
    rank: int = Field(16, ge=1, description="LoRA rank r: the width between the two matrices of an adapter.")
    alpha: float = Field(32.0, gt=0, description="LoRA alpha; the adapter's output is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of an adapter's inputs that is dropped at random.")
    target_modules: OneOrMany = Field(
        ("all-linear",), description="Names of the linear layers that get an adapter, or `all-linear`."
    )


MethodSection = FullMethod | LoraMethod
"""A section of any kind."""


def _with_kind(section: object) -> object:
    """`method: {}` is `kind: full`."""
    return {"kind": "full", **section} if isinstance(section, Mapping) else section


Method = Annotated[MethodSection, Field(discriminator="kind"), BeforeValidator(_with_kind)]
