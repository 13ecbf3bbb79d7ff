"""Prompt tuning: trained embeddings of virtual tokens (Lester et al. 2021, arXiv:2104.08691), by peft."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from raysft.model.methods.virtual_tokens import attach_encoder
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import PromptMethod

_INIT = {"vocabulary": "SAMPLE_VOCAB", "random": "RANDOM"}


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model with fresh virtual tokens. Raises ModelError."""
    from peft import PromptTuningConfig  # 4 s to import: only where it is used

    method = recipe.method
    assert isinstance(method, PromptMethod)
    config = PromptTuningConfig(
        num_virtual_tokens=method.virtual_tokens,
        prompt_tuning_init=_INIT[method.init],
        task_type="CAUSAL_LM",
    )
    return attach_encoder(model, config, recipe.seed)
