"""Prompt tuning: trained embeddings of virtual tokens (Lester et al. 2021, arXiv:2104.08691), by peft."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.model.methods.adapters import base_model
from raysft.model.methods.of_weights import OfWeight, Read
from raysft.model.methods.virtual_tokens import attach_encoder
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import PromptMethod

_INIT = {"vocabulary": "SAMPLE_VOCAB", "random": "RANDOM"}


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model with fresh virtual tokens. Raises ModelError.

    Tokens of the vocabulary that they begin as are kept beside them, for `rows`.
    """
    from peft import PromptTuningConfig  # 4 s to import: only where it is used

    method = recipe.method
    assert isinstance(method, PromptMethod)
    config = PromptTuningConfig(
        num_virtual_tokens=method.virtual_tokens,
        prompt_tuning_init=_INIT[method.init],
        task_type="CAUSAL_LM",
    )
    drawn: list[Tensor] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, given: drawn.extend(given))
    try:
        adapted: Any = attach_encoder(model, config, recipe.seed)
    finally:
        hook.remove()
    adapted.prompt_encoder["default"].drawn = drawn
    found: nn.Module = adapted
    return found


def rows(module: nn.Module) -> list[OfWeight]:
    """The embeddings that were drawn from the vocabulary; none where they are random. module: of attach."""
    loose: Any = module
    tokens: Any = base_model(module).get_input_embeddings()
    encoder = loose.prompt_encoder["default"]
    return [
        OfWeight(encoder.embedding.weight, tokens.weight, partial(_embedded, tokens, ids)) for ids in encoder.drawn
    ]


@torch.no_grad()
def _embedded(tokens: Any, ids: Tensor, read: Read) -> Tensor:
    """What the embedding layer makes of these tokens, of their rows alone: [n, D]. ids: [n]."""
    found = torch.empty(len(ids), tokens.weight.shape[1], device=tokens.weight.device)
    for row, token in zip(found, ids.tolist(), strict=True):
        read(row, token * len(row))
    whole, padding, tokens.padding_idx = tokens.weight.data, tokens.padding_idx, None  # no number of these rows
    tokens.weight.data = found
    try:
        answer: Tensor = tokens(torch.arange(len(ids), device=found.device))
        return answer
    finally:
        tokens.weight.data, tokens.padding_idx = whole, padding
