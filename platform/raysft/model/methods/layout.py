"""Rows laid out anew, so that every segment has room for virtual tokens before it.

Owns where virtual and real tokens stand and which positions they have: those that a segment with its virtual tokens
has alone. Not what stands in the virtual places. Knows no peft.

Shapes: B rows, T tokens a row, n virtual tokens, S segments of the row that has most, W = T + n * S.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from raysft.model.fast.attention import Borders
from raysft.model.fast.places import Places


class Roomy(NamedTuple):
    """Rows with room."""

    position_ids: Tensor
    """[B, W] int64: 0 .. n - 1 at virtual tokens, from n on at a segment's own."""
    virtual: Places
    """Where virtual tokens are: n * S a row."""
    tokens: Places
    """Where the row's tokens are, in their order."""

    def spread(self, tokens: Tensor, virtual: Tensor) -> Tensor:
        """[B, W, D]: values of tokens [B, T, D], and of virtual tokens [n, D], the same before every segment."""
        wide = tokens.new_empty((self.position_ids.numel(), tokens.shape[-1]))
        wide = wide.index_copy(0, self.tokens.index, tokens.flatten(0, 1))
        return self.put(virtual.to(tokens.dtype), wide.view(*self.position_ids.shape, -1))

    def put(self, virtual: Tensor, wide: Tensor) -> Tensor:
        """wide [B, W, ...] with virtual [n, ...] in the virtual places.

        The virtual ones' gradient is a sum over segments that expand() makes, in fp32 inside whatever the precision.
        """
        repeats = len(self.virtual.index) // len(virtual)
        every = virtual.expand(repeats, *virtual.shape).flatten(0, 1)
        return wide.flatten(0, 1).index_copy(0, self.virtual.index, every).view_as(wide)

    def of_tokens(self, values: Tensor) -> Tensor:
        """[B, T, ...]: the values at the rows' own tokens, of values [B, W, ...]."""
        return self.tokens.of(values).view(len(values), -1, *values.shape[2:])


def with_room(position_ids: Tensor, count: int, borders: Borders | None = None) -> tuple[Roomy, Borders]:
    """Rows with `count` virtual places before every segment, and where their segments begin.

    position_ids [B, T]: 0 where a segment starts, and at the start of every row; borders: of those segments, where
    they are known. A row of fewer segments than another gets empty ones behind its own: virtual places alone, so that
    no position is one that no segment has.
    """
    rows, length = position_ids.shape
    borders = Borders.of(position_ids) if borders is None else borders
    sizes: list[list[int]] = [[] for _ in range(rows)]
    for start, end in pairwise(borders.ends):
        sizes[start // length].append(count + end - start)
    most = max(map(len, sizes))
    width = length + count * most
    columns = torch.arange(width, device=position_ids.device).expand(rows, width)
    row_starts = torch.arange(0, rows * width, width, device=position_ids.device)[:, None]
    segments = (position_ids == 0).cumsum(1)  # up to and with each token
    own = columns[:, :length] + count * segments  # column of each token
    is_virtual = torch.ones((rows, width), dtype=torch.bool, device=position_ids.device).scatter_(1, own, False)
    places = is_virtual.byte().sort(dim=1, descending=True, stable=True).indices[:, : count * most]
    virtual = Places((row_starts + places).flatten())
    starts = is_virtual & ((is_virtual.cumsum(1) - 1) % count == 0)
    positions = columns - torch.where(starts, columns, 0).cummax(1).values
    lengths = [size for row in sizes for size in row + [count] * (most - len(row))]
    first = torch.cat([virtual.index[::count], virtual.index.new_full((1,), rows * width)])
    room = Borders(first.to(torch.int32), (0, *accumulate(lengths)))
    return Roomy(positions, virtual, Places((row_starts + own).flatten())), room
