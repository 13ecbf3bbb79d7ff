"""What the host knows of a micro-batch: where its targets and borders are, and how many, so that no pass asks a GPU.

Shapes: B rows, T tokens a row, S segments (samples), A atoms (groups of samples).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raysft.model.fast.attention import Borders
from raysft.model.fast.loss import IGNORE
from raysft.model.fast.places import Places
from raysft.model.fast.ulysses import part_of, whole_positions

Part = tuple[int, int]
"""(number of a rank among those that share rows, how many they are)."""
ALONE: Part = (0, 1)
Numbers = tuple[tuple[int, ...], int]
"""(ends of the borders, number of atoms). Plain, for DeepSpeed compares between ranks what a forward is given."""


@dataclass(frozen=True)
class Known:
    """What the host knows of a batch, so that no pass asks the device: where things are, and how many. Of the part of
    the rows that is this rank's, but for the borders."""

    trained: Places
    """Where labels are not IGNORE."""
    predicting: Places
    """Where the next token is of the same segment."""
    firsts: Places
    """The first token of each segment that has one here, and not of padding."""
    lasts: Places
    """The last one, likewise."""
    borders: Borders
    """Those of whole rows; where ranks share them, as whole_positions() pads them."""
    num_atoms: int
    """A."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that lies on the device."""
        places = (self.trained, self.predicting, self.firsts, self.lasts)
        return (*(one.index for one in places), self.borders.starts)

    @property
    def numbers(self) -> Numbers:
        """The rest."""
        return self.borders.ends, self.num_atoms

    @classmethod
    def of(cls, tensors: Sequence[Tensor], numbers: Numbers) -> Known:
        """From both. Of one batch: where several share a pass, places are told apart besides."""
        *places, starts = tensors
        trained, predicting, firsts, lasts = map(Places, places)
        return cls(trained, predicting, firsts, lasts, Borders(starts, numbers[0]), numbers[1])


def known_of(tensors: Sequence[Tensor], part: Part = ALONE) -> Known:
    """What is known of the first seven tensors of a DeviceBatch. Of tensors on a GPU it waits for them."""
    _, positions, labels, _, segment_of, predicts, atom_of = tensors
    own, follow, begin = labels, predicts, positions == 0
    if part[1] > 1:
        own, segment_of, follow, begin = (
            part_of(rows, fill, *part)
            for rows, fill in ((labels, IGNORE), (segment_of, -1), (predicts, 0), (begin, 0))
        )
        positions = whole_positions(positions, part[1])
    is_token = segment_of >= 0
    return Known(
        trained=Places.where(own != IGNORE),
        predicting=Places.where(follow),
        firsts=Places.where(is_token & begin),
        lasts=Places.where(is_token & ~follow),
        borders=Borders.of(positions),
        num_atoms=int(atom_of.max()) + 1 if len(atom_of) else 0,
    )


def before(sizes: Sequence[int]) -> list[int]:
    """What comes before each."""
    found: list[int] = np.cumsum([0, *sizes[:-1]]).tolist()
    return found


def known_in_one_row(known: Sequence[Known], starts: Sequence[int], num_atoms: int) -> Known:
    """What is known of batches behind each other. starts: positions before those of each."""

    def joined(each: Sequence[Places]) -> Places:
        index = torch.cat([one.index + start for one, start in zip(each, starts, strict=True)])
        return Places(index, tuple(len(one.index) for one in each))

    return Known(
        joined([one.trained for one in known]),
        joined([one.predicting for one in known]),
        joined([one.firsts for one in known]),
        joined([one.lasts for one in known]),
        Borders.in_one_row([one.borders for one in known]),
        num_atoms,
    )
