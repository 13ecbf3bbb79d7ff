"""Attention of a batch that is padded on the left, for generate(): no query is without a key.

Owns a name for transformers' sdpa whose mask has no empty row. A place of padding sees nothing in a causal mask; of
such rows the fused kernels of torch 2.13 on CUDA make NaN, or spoil the rows beside them (transformers #47651,
unsloth #9848; right on CPUs). Here it sees every key: what it becomes is seen by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PADDED = "raysft_padded"
"""The name under which transformers knows it."""


def padded_mask(*arguments: Any, **named: Any) -> Tensor | None:
    """transformers' sdpa_mask, whose arguments it takes: [B, 1, T, S] bool, without rows that are False throughout.

    None stays None: there is no padding, and the kernel is told that it is causal.
    """
    mask = sdpa_mask(*arguments, **named)
    return None if mask is None else mask | ~mask.any(-1, keepdim=True)


@contextmanager
def padded_attention(model: PreTrainedModel) -> Iterator[None]:
    """A model with `sdpa` has this attention inside; one with another, or of code that takes none, stays as it is."""
    takes_it = model.config._attn_implementation == "sdpa" and model._supports_attention_backend
    if takes_it:
        model.set_attn_implementation(PADDED)
    try:
        yield
    finally:
        if takes_it:
            model.set_attn_implementation("sdpa")


AttentionInterface.register(PADDED, sdpa_attention_forward)
AttentionMaskInterface.register(PADDED, padded_mask)
