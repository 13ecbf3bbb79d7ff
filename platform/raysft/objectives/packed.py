"""Several tensors in one buffer, so that one copy brings them to a device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_ALIGNED = 16
"""Bytes: a tensor in a common buffer begins at a multiple."""


def _spans(tensors: Sequence[Tensor]) -> list[slice]:
    """Bytes of each tensor in a common buffer; the last ends where the buffer does."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    stops = np.cumsum([-(-size // _ALIGNED) * _ALIGNED for size in sizes]).tolist()
    return [slice(start, start + size) for start, size in zip([0, *stops[:-1]], sizes, strict=True)]


def pack(tensors: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """Tensors of the host behind each other: [bytes] uint8. pinned: in memory that a GPU reads by itself."""
    spans = _spans(tensors)
    packed = torch.empty(spans[-1].stop, dtype=torch.uint8, pin_memory=pinned)
    for span, tensor in zip(spans, tensors, strict=True):
        packed[span] = tensor.contiguous().flatten().view(torch.uint8)
    return packed


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of pack(like) in that memory, wherever it lies."""
    spans = _spans(like)
    return [packed[span].view(one.dtype).view(one.shape) for span, one in zip(spans, like, strict=True)]
