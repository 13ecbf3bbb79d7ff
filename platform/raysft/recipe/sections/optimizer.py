"""`optimizer:`: what moves the weights, and its learning-rate schedule. One section for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from raysft.recipe.cleaning import Section


class OptimizerSection(Section):
    """What all optimizers have in common."""

    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Shape after warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Optimizer steps of linear warm-up.")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="Final learning rate / peak learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="Decay of matrices; biases and norms have none.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this global L2 norm.")
    title: ClassVar[str] = ""
    """In cards."""
    moments: ClassVar[int] = 2
    """Numbers that it keeps for each trained weight."""
    needs_whole: ClassVar[str] = ""
    """What of a weight's matrix it must see whole, in words; empty: nothing."""


class MomentsOptimizer(OptimizerSection):
    """What AdamW has, and whatever leaves some of the weights to it."""

    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of AdamW's mean of the gradients (first moment).")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of AdamW's mean of their squares (second moment).")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")


class AdamwOptimizer(MomentsOptimizer):
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) and its learning-rate schedule."""

    title: ClassVar[str] = "AdamW"
    kind: Literal["adamw"] = Field("adamw", description="The kind that is meant where none is named.")


class MuonOptimizer(MomentsOptimizer):
    """Muon (arXiv:2502.16982): matrices move along their momentum, orthogonalised; AdamW moves everything else.

    One learning rate serves both: updates of matrices are scaled to the size that AdamW's have.
    """

    title: ClassVar[str] = "Muon"
    needs_whole: ClassVar[str] = "Muon moves whole matrices"
    kind: Literal["muon"] = Field(description="Names this kind.")
    momentum: float = Field(0.95, ge=0, lt=1, description="Decay of the mean of a matrix's gradients.")


class AdafactorOptimizer(OptimizerSection):
    """Adafactor (arXiv:1804.04235), as torch has it: no mean of the gradients, and of their squares one for each row
    and column of a matrix. It keeps next to nothing beside the weights.

    Updates are as large as the weights that they move: a learning rate of 0.01 moves a weight by a hundredth of its
    root mean square at most, and after step t by 1/sqrt(t) of it.
    """

    title: ClassVar[str] = "Adafactor"
    moments: ClassVar[int] = 0
    needs_whole: ClassVar[str] = "Adafactor adds up rows and columns of whole matrices"
    kind: Literal["adafactor"] = Field(description="Names this kind.")
    moment_decay: float = Field(
        -0.8, lt=0, description="The means of squares decay by 1 - t^moment_decay in step t (torch: beta2_decay)."
    )
    clip_threshold: float = Field(
        1.0, gt=0, description="Root mean square of an update of a weight, before it is scaled, at most (torch: d)."
    )


OptimizerKinds = AdamwOptimizer | MuonOptimizer | AdafactorOptimizer
"""A section of any kind."""


def _with_kind(section: object) -> object:
    """`optimizer: {}` is `kind: adamw`."""
    return {"kind": "adamw", **section} if isinstance(section, Mapping) else section


Optimizer = Annotated[OptimizerKinds, Field(discriminator="kind"), BeforeValidator(_with_kind)]
