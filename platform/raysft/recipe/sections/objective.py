"""`objective:`: what is minimised. One section for each kind, told apart by `kind`; its name alone stands for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from raysft.recipe.cleaning import Section


class SftObjective(Section):
    """The mean cross-entropy of the trained tokens."""

    kind: Literal["sft"] = Field("sft", description="The kind that is meant where none is named.")
    kl_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean divergence KL(untrained model || model) of a token: against forgetting.",
    )
    kl_top_k: int = Field(
        32, ge=1, le=256, description="Likeliest tokens of the untrained model whose probabilities are kept for it."
    )


class DpoObjective(Section):
    """Direct preference optimisation (arXiv:2305.18290): preferred answers against rejected ones."""

    kind: Literal["dpo"] = Field(description="Names this kind.")
    beta: float = Field(
        0.1, gt=0, description="How strongly the model is held to the untrained one: the paper's beta."
    )


ObjectiveSection = SftObjective | DpoObjective
"""A section of any kind."""


def _with_kind(section: object) -> object:
    """`objective: dpo` is `{kind: dpo}`, and `{}` is `{kind: sft}`."""
    if isinstance(section, str):
        return {"kind": section}
    return {"kind": "sft", **section} if isinstance(section, Mapping) else section


Objective = Annotated[ObjectiveSection, Field(discriminator="kind"), BeforeValidator(_with_kind)]
