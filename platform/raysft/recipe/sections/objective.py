"""`objective:`: what is minimised. One section for each kind, told apart by `kind`; its name alone stands for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field

from raysft.metrics.base import Mode
from raysft.recipe.cleaning import OneOrMany, Section, Weights
from raysft.recipe.sections.embedding_objectives import ContrastiveObjective
from raysft.recipe.sections.head_objectives import ClassifyObjective, RewardObjective


class TokenObjective(Section):
    """What objectives on the trained tokens have in common: a guard against forgetting."""

    needs: ClassVar[dict[str, str]] = {"kl": "kl_weight"}
    """{measure: the field without which it is not there}."""

    kl_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean divergence KL(untrained model || model) of a token: against forgetting.",
    )
    kl_top_k: int = Field(
        32, ge=1, le=256, description="Likeliest tokens of the untrained model whose probabilities are kept for it."
    )


class SftObjective(TokenObjective):
    """The mean cross-entropy of the trained tokens."""

    measures: ClassVar[dict[str, Mode]] = {"nll": "min", "smoothing": "min", "kl": "min"}
    """Its terms and metrics, as held-out rows are measured by them."""
    needs: ClassVar[dict[str, str]] = {"kl": "kl_weight", "smoothing": "label_smoothing"}
    """{measure: the field without which it is not there}."""

    kind: Literal["sft"] = Field("sft", description="The kind that is meant where none is named.")
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each target that is spread over all tokens alike (arXiv:1512.00567).",
    )


class DftObjective(TokenObjective):
    """Dynamic fine-tuning (arXiv:2508.05629): each token's cross-entropy times the probability that it has. With
    `kl_weight` what is known as ASFT (arXiv:2509.23753)."""

    measures: ClassVar[dict[str, Mode]] = {"dft": "min", "nll": "min", "kl": "min"}
    """Its terms and metrics, as held-out rows are measured by them."""

    kind: Literal["dft"] = Field(description="Names this kind.")


class EaftObjective(TokenObjective):
    """Entropy-adaptive fine-tuning (arXiv:2601.02151): less is learned where the model is sure of something else."""

    measures: ClassVar[dict[str, Mode]] = {"eaft": "min", "nll": "min", "kl": "min"}
    """Its terms and metrics, as held-out rows are measured by them."""

    kind: Literal["eaft"] = Field(description="Names this kind.")
    entropy_top_k: int = Field(
        20, ge=2, description="Likeliest tokens whose entropy, divided by the largest that it can be, weighs a token."
    )
    power: float = Field(1.0, gt=0, description="Power of that weight: the paper's alpha.")


class DistillObjective(Section):
    """Distillation (arXiv:1503.02531): the target tokens' distribution is a teacher's, or the mean of several."""

    measures: ClassVar[dict[str, Mode]] = {"distill": "min", "nll": "min"}
    """Its terms and metrics, as held-out rows are measured by them."""
    needs: ClassVar[dict[str, str]] = {}
    """{measure: the field without which it is not there}."""

    kind: Literal["distill"] = Field(description="Names this kind.")
    teachers: OneOrMany = Field(
        (),
        description="Models with the student's tokenizer: directories, hub ids or `run://NAME`. They are asked once, "
        "before training, or as `live` says. One at least.",
    )
    live: bool = Field(
        False,
        description="Ask the teachers in training, of each micro-batch, not before it of all data: each worker then "
        "holds them whole beside its share of the student. For streams, and for data that are seen once.",
    )
    teacher_weights: Weights | None = Field(
        None, description="What each teacher counts in the mean of their probabilities. Default: all alike."
    )
    teacher_top_k: int = Field(
        64, ge=1, le=256, description="Likeliest tokens of the teachers that are kept; all others count as one."
    )
    teacher_draws: int = Field(
        0,
        ge=0,
        description="How many of the `teacher_top_k` are drawn of the other tokens instead, by their probability, "
        "each for an equal share of it (arXiv:2503.16870): what the teachers say of these then counts, too. For "
        "`forward`; a quarter of `teacher_top_k` is a good number.",
    )
    divergence: Literal["forward", "reverse", "js"] = Field(
        "forward",
        description="What is minimised: `forward`: KL(teacher || student); `reverse`: KL(student || teacher); `js`: "
        "the mean of both to their mixture (Jensen-Shannon).",
    )
    temperature: float = Field(
        1.0,
        ge=0.01,
        le=100,
        description="Both distributions are those of the logits divided by it; the term counts its square.",
    )
    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the divergence in the loss; the rest is cross-entropy: the alpha of KD.",
    )


_OF_PAIRS: dict[str, Mode] = {"preferred_nll": "min", "accuracy": "max", "margin": "max"}
"""Measures of all objectives on pairs."""
_SFT_WEIGHT = "Weight of the mean cross-entropy of the preferred answers' tokens, which is added."


class PreferenceObjective(Section):
    """What objectives on pairs of answers, a preferred and a rejected one, have in common."""

    needs: ClassVar[dict[str, str]] = {"preferred_nll": "sft_weight"}
    """{measure: the field without which it is not there}."""

    sft_weight: float = Field(0.0, ge=0, description=_SFT_WEIGHT)


class MarginObjective(PreferenceObjective):
    """What objectives on the margin of a pair have in common: beta x (score of the preferred - of the rejected)."""

    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = Field(
        "sigmoid",
        description="What a margin costs. `sigmoid`: -log sigmoid(margin); `hinge`: max(0, 1 - margin) "
        "(arXiv:2305.10425); `ipo`: the squared distance of scores a token from 1 / (2 beta) (arXiv:2310.12036); "
        "`robust`: `sigmoid` made unbiased where `label_smoothing` of the pairs are the wrong way round "
        "(arXiv:2403.00409).",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share of pairs that are taken to be the wrong way round; for `sigmoid` and `robust`.",
    )


class DpoObjective(MarginObjective):
    """Direct preference optimisation (arXiv:2305.18290): preferred answers against rejected ones."""

    measures: ClassVar[dict[str, Mode]] = {"dpo": "min", **_OF_PAIRS}
    """Its terms and metrics, as held-out rows are measured by them."""

    kind: Literal["dpo"] = Field(description="Names this kind.")
    beta: float = Field(
        0.1, gt=0, description="How strongly the model is held to the untrained one: the paper's beta."
    )


class CpoObjective(MarginObjective):
    """Contrastive preference optimisation (arXiv:2401.08417): DPO without the untrained model, and fine-tuning."""

    measures: ClassVar[dict[str, Mode]] = {"cpo": "min", **_OF_PAIRS}
    """Its terms and metrics, as held-out rows are measured by them."""

    kind: Literal["cpo"] = Field(description="Names this kind.")
    beta: float = Field(0.1, gt=0, description="What the gap between two log-probabilities is multiplied by.")
    sft_weight: float = Field(1.0, ge=0, description=_SFT_WEIGHT)


class SimpoObjective(PreferenceObjective):
    """Simple preference optimisation (arXiv:2405.14734): log-probabilities a token, and a margin to be reached."""

    measures: ClassVar[dict[str, Mode]] = {"simpo": "min", **_OF_PAIRS}
    """Its terms and metrics, as held-out rows are measured by them."""

    kind: Literal["simpo"] = Field(description="Names this kind.")
    beta: float = Field(2.0, gt=0, description="What the gap between two mean log-probabilities is multiplied by.")
    gamma: float = Field(1.0, ge=0, description="Margin at which a pair costs log 2: the paper's gamma.")


class OrpoObjective(PreferenceObjective):
    """Odds ratio preference optimisation (arXiv:2403.07691): fine-tuning that raises the odds of good answers."""

    measures: ClassVar[dict[str, Mode]] = {"orpo": "min", **_OF_PAIRS}
    """Its terms and metrics, as held-out rows are measured by them."""

    kind: Literal["orpo"] = Field(description="Names this kind.")
    beta: float = Field(0.1, gt=0, description="Weight of the odds ratio's term: the paper's lambda.")
    sft_weight: float = Field(1.0, ge=0, description=_SFT_WEIGHT)


class KtoObjective(Section):
    """Kahneman-Tversky optimisation (arXiv:2402.01306): single answers, each labelled as wanted or not."""

    measures: ClassVar[dict[str, Mode]] = {
        "kto": "min",
        "accuracy": "max",
        "margin": "max",
        "wanted_gain": "max",
        "unwanted_gain": "min",
        "drift": "min",
    }
    """Its terms and metrics, as held-out rows are measured by them."""
    needs: ClassVar[dict[str, str]] = {}
    """{measure: the field without which it is not there}."""

    kind: Literal["kto"] = Field(description="Names this kind.")
    beta: float = Field(
        0.1, gt=0, description="How strongly the model is held to the untrained one: the paper's beta."
    )
    wanted_weight: float = Field(
        1.0, gt=0, description="Weight of answers that are wanted: the paper's lambda_D. See `unwanted_weight`."
    )
    unwanted_weight: float = Field(
        1.0,
        gt=0,
        description="Weight of answers that are not wanted: lambda_U. The paper keeps weight x number of both kinds "
        "within a factor of 4/3.",
    )


ObjectiveSection = (
    SftObjective
    | DftObjective
    | EaftObjective
    | DistillObjective
    | DpoObjective
    | CpoObjective
    | SimpoObjective
    | OrpoObjective
    | KtoObjective
    | RewardObjective
    | ClassifyObjective
    | ContrastiveObjective
)
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
