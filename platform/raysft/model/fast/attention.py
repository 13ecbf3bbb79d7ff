"""Attention that looks at each packed segment by itself: no mask, no work on other segments' keys.

Owns the function that transformers' models call and the choice of the models that may; the check that it is
right for a model is in start_check.py.

Shapes: B rows, T tokens a row, S segments over all rows, H query heads, K key heads, E head size.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from raysft.errors import ModelError

logger = logging.getLogger(__name__)

SEGMENTS = "raysft_segments"
"""The name under which transformers knows segment_attention."""

_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
"""What varlen_attn is told where key heads are fewer than query heads; torch < 2.13 takes them as they are."""

ENDS = "segment_ends"
"""The argument that is the borders as numbers of the host, which segment_attention takes besides."""

TOLD_BORDERS = (SEGMENTS, "flash_attention_2", "flash_attention_3")
"""Backends that take segment borders as arguments; the others read them from the positions."""


@dataclass(frozen=True)
class Borders:
    """Where the segments of flattened rows [B * T] begin. Padding behind a row's own is a segment, too."""

    starts: Tensor
    """[S + 1] int32, from 0 to B * T."""
    ends: tuple[int, ...]
    """The same numbers: the host has no need to ask the device for them."""

    @classmethod
    def of(cls, position_ids: Tensor) -> Borders:
        """position_ids [B, T]: 0 where a segment starts, and at the start of every row. Waits for a GPU."""
        starts = (position_ids.flatten() == 0).nonzero().flatten()
        starts = nn.functional.pad(starts, (0, 1), value=position_ids.numel()).to(torch.int32)
        return cls(starts, tuple(starts.tolist()))

    @classmethod
    def in_one_row(cls, each: Sequence[Borders]) -> Borders:
        """Those of rows behind each other."""
        before = [0, *accumulate(one.ends[-1] for one in each)]
        starts = [one.starts[:-1] + first for one, first in zip(each, before, strict=False)]
        ends = [first + end for one, first in zip(each, before, strict=False) for end in one.ends[1:]]
        return cls(torch.cat([*starts, each[-1].starts[-1:] + before[-2]]), (0, *ends))

    @property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return _longest(self.ends)


def _longest(ends: Sequence[int]) -> int:
    return max(end - start for start, end in pairwise(ends))


def segment_arguments(model: PreTrainedModel, position_ids: Tensor, borders: Borders | None = None) -> dict[str, Any]:
    """segment_borders for backends that take them."""
    kind = model.config._attn_implementation
    if kind not in TOLD_BORDERS:
        return {}
    found = segment_borders(position_ids, borders)
    return found if kind == SEGMENTS else {name: found[name] for name in found if name != ENDS}


def segment_borders(position_ids: Tensor, borders: Borders | None = None) -> dict[str, Any]:
    """Borders of the segments as transformers' FlashAttentionKwargs, and as numbers of the host.

    position_ids [B, T]: 0 where a segment starts, and at the start of every row. Segments are counted over the
    flattened rows: cu_seq_lens_* [S + 1] int32 starts at 0 and ends at B * T; max_length_* is the longest.
    borders: what the host knows of these rows; None: they are looked for.
    """
    found = Borders.of(position_ids) if borders is None else borders
    lengths = dict.fromkeys(("max_length_q", "max_length_k"), found.longest)
    return dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), found.starts) | lengths | {ENDS: found.ends}


def use_segment_attention(model: PreTrainedModel) -> bool:
    """Switch a model from `sdpa` to segment_attention where its code hands it all it needs. Logged once.

    That is so where the model can do flash attention: it, too, gets no mask but borders, and the window of a
    sliding layer as an argument.
    """
    _leave_out_cudnn()
    if model.config._attn_implementation != "sdpa":
        return False
    if model._supports_attention_backend and model._supports_flash_attn:
        model.set_attn_implementation(SEGMENTS)
    used: bool = model.config._attn_implementation == SEGMENTS
    device = next(model.parameters()).device.type
    kernel = "torch's varlen kernel in bf16" if device == "cuda" else "one causal SDPA per segment"
    if used:
        logger.info("attention: segments apart, %s", kernel)
    else:
        logger.info("attention: sdpa with a block-diagonal mask; %s takes no borders", model.config.model_type)
    return used


def _leave_out_cudnn() -> None:
    """Have SDPA on CUDA take its other kernels, in this process: with a mask and n % 128 == 64 keys the gradient of
    cuDNN's is NaN on H100 and H200 where a query's scores are all far below zero (torch 2.11 to 2.13; pytorch
    #196678). tests/gpu says when it is mended."""
    torch.backends.cuda.enable_cudnn_sdp(False)


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    segment_ends: Sequence[int] | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Causal attention within each segment; what transformers' attention modules call.

    query [B, H, T, E], key and value [B, K, T, E], K divides H; whole rows, positions already rotated. Segment s
    is the tokens cu_seq_lens_q[s] .. cu_seq_lens_q[s + 1] of the flattened rows [B * T] and lies within one row;
    segment_ends: the same numbers on the host.
    sliding_window: a token sees itself and the sliding_window - 1 tokens before it. Returns ([B, T, H, E], None).
    Raises ModelError for what it does not compute: masks, caches, soft caps, sinks, biases.
    """
    refused = [name for name in ("softcap", "s_aux", "position_bias", "cache") if others.get(name) is not None]
    refused += ["attention_mask"] * (attention_mask is not None) + ["is_causal"] * (others.get("is_causal") is False)
    if refused or cu_seq_lens_q is None or key.shape[2] != query.shape[2]:
        raise ModelError(
            "a model asks segment attention for what it does not compute",
            got=f"{type(module).__name__} with {', '.join(refused) or 'no segment borders or another key length'}",
            expected="causal attention within segments",
            fix="set model.attention: eager",
        )
    ends = cu_seq_lens_q.tolist() if segment_ends is None else segment_ends
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0:
        return _varlen(query, key, value, cu_seq_lens_q, _longest(ends), (scaling, sliding_window)), None
    return _one_by_one(query, key, value, ends, (scaling, sliding_window, dropout)), None


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, ends: Sequence[int], settings: tuple[float | None, int | None, float]
) -> Tensor:
    """SDPA per segment. split and cat have cheap gradients; a slice's would be as large as the row."""
    scaling, window, dropout = settings
    rows, _, width, _ = query.shape
    lengths: list[list[int]] = [[] for _ in range(rows)]
    for start, end in pairwise(ends):
        lengths[start // width].append(end - start)
    outputs = []
    for q, k, v, sizes in zip(query.unbind(), key.unbind(), value.unbind(), lengths, strict=True):  # [H, T, E]
        parts = zip(*(torch.split(x, sizes, 1) for x in (q, k, v)), strict=True)
        answers = [
            scaled_dot_product_attention(
                a[None],
                b[None],
                c[None],
                attn_mask=_band(a, window),
                is_causal=window is None or a.shape[1] <= window,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=a.shape[0] != b.shape[0],
            )
            for a, b, c in parts
        ]
        outputs.append(torch.cat(answers, dim=2))  # [1, H, T, E]
    return torch.cat(outputs).transpose(1, 2).contiguous()


def _band(query: Tensor, window: int | None) -> Tensor | None:
    """Mask [n, n] of a segment longer than its layer's window: q - window < k <= q. Others are plainly causal."""
    length = query.shape[1]
    if window is None or length <= window:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return seen.tril().triu(1 - window)


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: Tensor,
    longest: int,
    settings: tuple[float | None, int | None],
) -> Tensor:
    """torch's flash kernel for segments of any lengths: CUDA, half precision. tests/gpu holds it to float64."""
    scaling, window = settings
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # [B * T, H or K, E]
    answer = varlen_attn(
        q,
        k,
        v,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **(_GROUPED if query.shape[1] != key.shape[1] else {}),
    )
    assert isinstance(answer, Tensor)  # a tuple only where asked for
    return answer.view(query.shape[0], query.shape[2], query.shape[1], -1)


AttentionInterface.register(SEGMENTS, segment_attention)
