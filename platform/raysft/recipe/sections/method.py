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


class Ia3Method(Section):
    """Learned scales of keys, values and the MLP's inner activations (arXiv:2205.05638) on a frozen model."""

    kind: Literal["ia3"] = Field(description="Names this kind.")
    target_modules: OneOrMany = Field(
        ("k_proj", "v_proj", "down_proj"), description="Names of the linear layers that get scales."
    )
    feedforward_modules: OneOrMany = Field(
        ("down_proj",), description="Those of them whose inputs are scaled; of the others the outputs are."
    )


MethodSection = FullMethod | LoraMethod | Ia3Method
"""A section of any kind."""


def _with_kind(section: object) -> object:
    """`method: {}` is `kind: full`."""
    return {"kind": "full", **section} if isinstance(section, Mapping) else section


Method = Annotated[MethodSection, Field(discriminator="kind"), BeforeValidator(_with_kind)]
