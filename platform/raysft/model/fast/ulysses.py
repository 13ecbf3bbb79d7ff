"""Sequence parallelism: a rank holds a part of every row; attention sees whole rows with a part of the heads.

DeepSpeed-Ulysses (arXiv:2309.14509): queries, keys and values go from parts of the row to parts of the heads by an
all-to-all, and the outputs come back. Segments are told by their borders in the WHOLE row, so that attention within
segments (attention.py) does the rest.

Shapes: B rows, T tokens of a whole row (a multiple of P), P ranks, H query heads, K key heads, E head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel

from raysft.errors import ModelError
from raysft.model.decoder import decoder
from raysft.model.fast.attention import SEGMENTS, Borders, segment_attention, segment_borders
from raysft.model.fast.autograd import applied

ULYSSES = "raysft_ulysses"
"""The name under which transformers knows ulysses_attention."""


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks that share rows; rank r holds tokens r * T / P .. (r + 1) * T / P of each."""

    group: dist.ProcessGroup
    rank: int
    size: int

    def own(self, rows: Tensor, fill: float) -> Tensor:
        """[B, T0, ...] -> this rank's [B, T / P, ...]; rows are padded with `fill` to the next multiple of P."""
        return part_of(rows, fill, self.rank, self.size)

    def total(self, values: Tensor) -> Tensor:
        """Sum over the ranks, of any shape. Collective, in its backward as well: there gradients are summed."""
        summed: Tensor = applied(_AllSum, values, self.group) if values.numel() else values
        return summed


def part_of(rows: Tensor, fill: float, rank: int, size: int) -> Tensor:
    """Tokens of one of `size` ranks: [B, T0, ...] -> [B, T / P, ...]. See SequenceGroup.own."""
    others = (0, 0) * (rows.ndim - 2)  # torch pads from the last axis on
    padded = nn.functional.pad(rows, (*others, 0, -rows.shape[1] % size), value=fill)
    return padded.chunk(size, dim=1)[rank]


def whole_positions(position_ids: Tensor, size: int) -> Tensor:
    """Positions of rows that `size` ranks share: [B, T0] -> [B, T]. The padding is a segment of its own."""
    padding = torch.arange(-position_ids.shape[1] % size, device=position_ids.device).expand(len(position_ids), -1)
    return torch.cat([position_ids, padding], dim=1)


def use_ulysses_attention(model: PreTrainedModel) -> None:
    """Switch a model from segment attention. Raises ModelError where it has another one."""
    if model.config._attn_implementation not in (SEGMENTS, ULYSSES):
        raise ModelError(
            "sequence parallelism needs attention that takes segment borders",
            got=f"{model.config.model_type} with attention {model.config._attn_implementation}",
            expected="model.attention: sdpa, with a model type that can do flash attention",
            fix="set parallel.sequence: 1, or model.attention: sdpa",
        )
    model.set_attn_implementation(ULYSSES)


def hidden_part(
    model: PreTrainedModel,
    input_ids: Tensor,
    position_ids: Tensor,
    sequence: SequenceGroup,
    borders: Borders | None = None,
) -> Tensor:
    """This rank's part of what the head reads, [B, T / P, D], of whole rows [B, T0]. Collective.

    borders: those of whole_positions(), where they are known.
    """
    positions = whole_positions(position_ids, sequence.size)
    hidden: Tensor = decoder(model)(
        input_ids=sequence.own(input_ids, 0),
        position_ids=sequence.own(positions, 0),
        use_cache=False,
        sequence=sequence,
        **segment_borders(positions, borders),
    )[0]
    return hidden


def whole_hidden(model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, sequence: SequenceGroup) -> Tensor:
    """As loss.hidden_states, [B, T0, D], from the parts of all ranks. Without gradients."""
    part = hidden_part(model, input_ids, position_ids, sequence).contiguous()
    parts = [torch.empty_like(part) for _ in range(sequence.size)]
    dist.all_gather(parts, part, group=sequence.group)
    return torch.cat(parts, dim=1)[:, : input_ids.shape[1]]


def ulysses_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sequence: SequenceGroup,
    **others: Any,
) -> tuple[Tensor, None]:
    """segment_attention of whole rows, from parts of them: query [B, H, T / P, E] -> ([B, T / P, H, E], None).

    Where K is no multiple of P, heads of keys and values are repeated until they are. H must be one. Collective.
    """
    copies = math.lcm(key.shape[1], sequence.size) // key.shape[1]
    if copies > 1:
        key, value = (x.repeat_interleave(copies, dim=1) for x in (key, value))
    q, k, v = (heads_of_rows(x, sequence) for x in (query, key, value))  # [B, H / P, T, E]
    answer, _ = segment_attention(module, q, k, v, attention_mask, **others)  # [B, T, H / P, E]
    return rows_of_heads(answer, sequence), None


def heads_of_rows(part: Tensor, sequence: SequenceGroup) -> Tensor:
    """A part of the rows, all heads -> whole rows, a part of the heads: [B, H, T / P, E] -> [B, H / P, T, E]."""
    rows, heads, tokens, size = part.shape
    by_head = part.reshape(rows, sequence.size, heads // sequence.size, tokens, size).movedim(1, 0)
    by_part = _exchange(by_head, sequence)  # [P, B, H / P, T / P, E], parts of the rows in order
    return by_part.movedim(0, 2).reshape(rows, heads // sequence.size, sequence.size * tokens, size)


def rows_of_heads(answer: Tensor, sequence: SequenceGroup) -> Tensor:
    """The way back, in the order of an attention's output: [B, T, H / P, E] -> [B, T / P, H, E]."""
    rows, tokens, heads, size = answer.shape
    by_part = answer.reshape(rows, sequence.size, tokens // sequence.size, heads, size).movedim(1, 0)
    by_head = _exchange(by_part, sequence)  # [P, B, T / P, H / P, E], parts of the heads in order
    return by_head.movedim(0, 2).reshape(rows, tokens // sequence.size, sequence.size * heads, size)


def _exchange(pieces: Tensor, sequence: SequenceGroup) -> Tensor:
    exchanged: Tensor = applied(_AllToAll, pieces, sequence.group)
    return exchanged


class _AllToAll(torch.autograd.Function):
    """[P, ...]: piece p goes to rank p, and what comes from rank p is piece p. Its own inverse, and its transpose."""

    @staticmethod
    def forward(ctx: Any, pieces: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        received = torch.empty_like(pieces, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, pieces.contiguous(), group=group)
        return received

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        received = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, gradient.contiguous(), group=ctx.group)
        return received, None


class _AllSum(torch.autograd.Function):
    """y = sum of every rank's x: what any rank's y does to a loss, every rank's x does."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_summed(values, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all_summed(gradient, ctx.group), None


def _all_summed(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = values.contiguous().clone()
    dist.all_reduce(total, group=group)
    return total


AttentionInterface.register(ULYSSES, ulysses_attention)
