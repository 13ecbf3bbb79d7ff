"""Samples put together into an atom come apart again as they were."""

from __future__ import annotations

import numpy as np

from raysft.data.text.atoms import joined, split_atom
from raysft.data.text.fitting import Example


def sample(length: int) -> Example:
    ids = np.arange(length, dtype=np.int32) + length
    return Example(7, ids, (ids % 2).astype(np.float32), (ids % 3 == 0).astype(np.uint8), template="t")


def test_an_atom_comes_apart_as_it_was_put_together() -> None:
    samples = [sample(3), sample(5), sample(1)]
    whole = joined(samples, ("first", "second", "third"))
    assert whole.segments == (3, 5, 1)
    found = split_atom(whole)
    assert [name for name, _ in found] == ["first", "second", "third"]
    for (_, ours), theirs in zip(found, samples, strict=True):
        for name in ("input_ids", "target", "flags"):
            np.testing.assert_array_equal(ours._asdict()[name], theirs._asdict()[name])
        assert ours.segments == ours.sides == ()
    assert split_atom(samples[0]) == [("", samples[0])]
