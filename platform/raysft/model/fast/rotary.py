"""Rotary positions without copied halves: x cos + rotate_half(x) sin in three operations where transformers has five.

Owns the function that takes the place of a model type's own `apply_rotary_pos_emb`, and the check that both compute
the same. RoFormer, arXiv:2104.09864.

Shapes: x [B, H, T, E] (or [B, T, H, E]); cos and sin broadcast to it, the halves of a head size E beside each other.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from raysft.model.fast.autograd import applied

logger = logging.getLogger(__name__)

Rotation = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(query, key, cos, sin) -> query and key, rotated."""

_NAME = "apply_rotary_pos_emb"


def use_rotation(model: PreTrainedModel) -> bool:
    """Let the models of this type, in this process, rotate by apply_rotary_pos_emb of this module.

    False, and nothing changed, where the type has another rotation (parts of heads, neighbours instead of halves), or
    somebody else has put a kernel in its place.
    """
    module = sys.modules[type(model).__module__]
    theirs = vars(module).get(_NAME)
    if theirs is None or theirs.__module__ != module.__name__ or not _is_ours(theirs):
        return False
    setattr(module, _NAME, apply_rotary_pos_emb)
    logger.info("rotary positions of %s: without copies", model.config.model_type)
    return True


def apply_rotary_pos_emb(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Named and called as transformers does: cos and sin [B, T, E] get the dimension of the heads."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return applied(_Rotate, q, cos, sin), applied(_Rotate, k, cos, sin)


class _Rotate(torch.autograd.Function):
    """(a, b) -> (a cos - b sin, b cos + a sin) for the halves a and b of each head; the way back is its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        half = x.shape[-1] // 2
        rotated = x * cos
        rotated[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        rotated[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return rotated

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        half = upstream.shape[-1] // 2
        turned = upstream * cos
        turned[..., :half].addcmul_(upstream[..., half:], sin[..., half:])
        turned[..., half:].addcmul_(upstream[..., :half], sin[..., :half], value=-1)
        return turned, None, None


def _is_ours(theirs: Rotation) -> bool:
    """Does it give what apply_rotary_pos_emb gives, and refuse to rotate a part of each head?

    Of bf16 and factors in fp32, too: OLMo 2 rounds what it gives then, Llama does not.
    """
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, 3, 8, generator=draw) for heads in (4, 2))
    cos, sin = (torch.randn(1, 3, 8, generator=draw) for _ in range(2))
    same = True
    try:
        for dtype in (torch.float32, torch.bfloat16):
            given = q.to(dtype), k.to(dtype), cos, sin
            pairs = zip(theirs(*given), apply_rotary_pos_emb(*given), strict=True)
            same &= all(a.dtype == b.dtype and torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    except (TypeError, ValueError, RuntimeError):
        return False
    try:
        theirs(q, k, cos[..., :4], sin[..., :4])
    except RuntimeError:
        return same
    return False
