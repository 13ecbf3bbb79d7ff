"""`optimizer:`: what moves the weights, and its learning-rate schedule. One section for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from raysft.recipe.cleaning import Section


class OptimizerSection(Section):
    """What all optimizers have in common."""

    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Shape after warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Optimizer steps of linear warm-up.")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="Final learning rate / peak learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="Decay of matrices; biases and norms have none.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of AdamW's mean of the gradients (first moment).")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of AdamW's mean of their squares (second moment).")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this global L2 norm.")


class AdamwOptimizer(OptimizerSection):
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) and its learning-rate schedule."""

    kind: Literal["adamw"] = Field("adamw", description="The kind that is meant where none is named.")


class MuonOptimizer(OptimizerSection):
    """Muon (arXiv:2502.16982): matrices move along their momentum, orthogonalised; AdamW moves everything else.

    One learning rate serves both: updates of matrices are scaled to the size that AdamW's have.
    """

    kind: Literal["muon"] = Field(description="Names this kind.")
    momentum: float = Field(0.95, ge=0, lt=1, description="Decay of the mean of a matrix's gradients.")


OptimizerKinds = AdamwOptimizer | MuonOptimizer
"""A section of any kind."""


def _with_kind(section: object) -> object:
    """`optimizer: {}` is `kind: adamw`."""
    return {"kind": "adamw", **section} if isinstance(section, Mapping) else section


Optimizer = Annotated[OptimizerKinds, Field(discriminator="kind"), BeforeValidator(_with_kind)]
