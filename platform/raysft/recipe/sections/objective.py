"""`objective:`: what is minimised. One section for each kind, told apart by `kind`; its name alone stands for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field

from raysft.metrics.base import Mode
from raysft.recipe.cleaning import Section


class SftObjective(Section):
    """The mean cross-entropy of the trained tokens."""

    measures: ClassVar[dict[str, Mode]] = {"nll": "min", "kl": "min"}
    """Its terms and metrics, as held-out rows are measured by them."""
    needs: ClassVar[dict[str, str]] = {"kl": "kl_weight"}
    """{measure: the field without which it is not there}."""

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

    measures: ClassVar[dict[str, Mode]] = {"dpo": "min", "accuracy": "max", "margin": "max"}
    """Its terms and metrics, as held-out rows are measured by them."""
    needs: ClassVar[dict[str, str]] = {}
    """{measure: the field without which it is not there}."""

    kind: Literal["dpo"] = Field(description="Names this kind.")
    beta: float = Field(
        0.1, gt=0, description="How strongly the model is held to the untrained one: the paper's beta."
    )


ObjectiveSection = SftObjective | DpoObjective
"""A section of any kind."""

MEASURES_OF_ROWS: dict[str, Mode] = {
    "loss": "min",
    **{name: mode for section in get_args(ObjectiveSection) for name, mode in section.measures.items()},
}
"""{measure of rows while training: which way is better}: the loss, and the terms and metrics of all objectives."""


def _with_kind(section: object) -> object:
    """`objective: dpo` is `{kind: dpo}`, and `{}` is `{kind: sft}`."""
    if isinstance(section, str):
        return {"kind": section}
    return {"kind": "sft", **section} if isinstance(section, Mapping) else section


if TYPE_CHECKING:
    _Name = str
else:
    _Name = Literal[*(section.model_fields["kind"].annotation for section in get_args(ObjectiveSection))]
_AsWritten = _Name | Annotated[ObjectiveSection, Field(discriminator="kind")]

Objective = Annotated[
    ObjectiveSection,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind, json_schema_input_type=_AsWritten),
]
