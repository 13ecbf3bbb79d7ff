"""Samples that belong together -> one Example with `segments`, and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raysft.data.text.fitting import Example


def joined(samples: Sequence[Example], sides: Sequence[str]) -> Example:
    """The first sample's example with the tokens of all of them behind each other. sides: what each is, in a word."""
    return samples[0]._replace(
        input_ids=np.concatenate([sample.input_ids for sample in samples]),
        target=np.concatenate([sample.target for sample in samples]),
        flags=np.concatenate([sample.flags for sample in samples]),
        segments=tuple(len(sample.input_ids) for sample in samples),
        sides=tuple(sides),
    )


def split_atom(example: Example) -> list[tuple[str, Example]]:
    """(what it is, sample) of each sample of an atom; else the example itself, without a name."""
    if not example.segments:
        return [("", example)]
    ends = np.cumsum(example.segments).tolist()
    parts = zip(example.sides, ends, example.segments, strict=True)
    return [(name, _part(example, slice(end - length, end))) for name, end, length in parts]


def _part(example: Example, own: slice) -> Example:
    return example._replace(
        input_ids=example.input_ids[own],
        target=example.target[own],
        flags=example.flags[own],
        segments=(),
        sides=(),
    )
