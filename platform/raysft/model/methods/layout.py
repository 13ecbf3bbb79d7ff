"""Rows laid out anew, so that every segment has room for virtual tokens before it.

Owns where virtual and real tokens stand and which positions they have: those that a segment with its virtual tokens
has alone. Not what stands in the virtual places. Knows no peft.

Shapes: B rows, T tokens a row, n virtual tokens, S segments of the row that has most, W = T + n * S.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Roomy(NamedTuple):
    """Rows with room."""

    position_ids: Tensor
    """[B, W] int64: 0 .. n - 1 at virtual tokens, from n on at a segment's own."""
    is_virtual: Tensor
    """[B, W] bool: n * S a row. The others are the row's tokens, in their order."""

    def spread(self, tokens: Tensor, virtual: Tensor) -> Tensor:
        """[B, W, D]: values of tokens [B, T, D], and of virtual tokens [n, D], the same before every segment.

        The virtual ones' gradient is a sum over segments that expand() makes, in fp32 inside whatever the precision.
        """
        repeats = int(self.is_virtual.sum()) // len(virtual)
        wide = tokens.new_empty((*self.position_ids.shape, tokens.shape[-1]))
        wide[~self.is_virtual] = tokens.flatten(0, 1)
        wide[self.is_virtual] = virtual.to(tokens.dtype).expand(repeats, *virtual.shape).flatten(0, 1)
        return wide

    def of_tokens(self, values: Tensor) -> Tensor:
        """[B, T, ...]: the values at the rows' own tokens, of values [B, W, ...]."""
        return values[~self.is_virtual].view(len(values), -1, *values.shape[2:])


def with_room(position_ids: Tensor, count: int) -> Roomy:
    """Rows with `count` virtual places before every segment.

    position_ids [B, T]: 0 where a segment starts, and at the start of every row. A row of fewer segments than another
    gets empty ones behind its own: virtual places alone, so that no position is one that no segment has.
    """
    rows, length = position_ids.shape
    segments = (position_ids == 0).cumsum(1)  # up to and with each token
    width = length + count * int(segments[:, -1].max())
    columns = torch.arange(width, device=position_ids.device).expand(rows, width)
    is_virtual = torch.ones((rows, width), dtype=torch.bool, device=position_ids.device)
    is_virtual.scatter_(1, columns[:, :length] + count * segments, False)
    starts = is_virtual & ((is_virtual.cumsum(1) - 1) % count == 0)
    return Roomy(columns - torch.where(starts, columns, 0).cummax(1).values, is_virtual)
