"""P-tuning: virtual tokens that a small network makes (Liu et al. 2021, arXiv:2103.10385), by peft.

Once trained the network is not needed: what it gives is saved, and peft loads that as it loads a tuned prompt.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from raysft.model.methods.virtual_tokens import attach_encoder
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import PTuningMethod


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model with a fresh network. Raises ModelError."""
    from peft import PromptEncoderConfig  # 4 s to import: only where it is used

    method = recipe.method
    assert isinstance(method, PTuningMethod)
    width: Any = method.hidden_size  # None, peft takes the model's
    config = PromptEncoderConfig(
        num_virtual_tokens=method.virtual_tokens,
        encoder_reparameterization_type=method.encoder.upper(),
        encoder_hidden_size=width,
        encoder_num_layers=method.layers if method.encoder == "lstm" else 2,  # of an MLP it is never another
        encoder_dropout=method.dropout,
        task_type="CAUSAL_LM",
    )
    return attach_encoder(model, config, recipe.seed)
