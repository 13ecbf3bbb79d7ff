"""`optimizer:`: AdamW and its learning-rate schedule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raysft.recipe.cleaning import Section


class OptimizerSection(Section):
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) and its learning-rate schedule."""

    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Shape after warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Optimizer steps of linear warm-up.")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="Final learning rate / peak learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="Decay of matrices; biases and norms have none.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of AdamW's mean of the gradients (first moment).")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of AdamW's mean of their squares (second moment).")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this global L2 norm.")
