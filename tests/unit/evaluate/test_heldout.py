"""Of a pair of answers the preferred one counts, whichever row it stands in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import FakeStore

from raysft.data.feed.collate import IGNORE, collate
from raysft.evaluate.heldout import preferred


def batch_of(lengths: list[list[int]], atoms: list[list[int]], *, packing: bool) -> Any:
    store = FakeStore(lengths)
    for row, of in zip(store.rows, atoms, strict=True):
        row.segment_fields["atom"][:] = of
    return collate(store.read_rows(range(len(lengths))), 0, packing=packing)


@pytest.mark.parametrize("packing", [True, False])
def test_targets_of_the_second_of_a_pair_are_left_out(packing: bool) -> None:
    """Atoms are numbered within a row: 0 of the second row is no part of 0 of the first."""
    whole = batch_of([[6, 4, 5], [8, 3]], [[0, 0, 1], [0, 0]], packing=packing)
    found = preferred(whole)
    counts = []
    for number in range(5):
        mine = whole.segment_of == number
        before, after = (int(((batch.labels != IGNORE) & mine).sum()) for batch in (whole, found))
        assert after in (0, before)
        counts.append(after > 0)
    assert counts == [True, False, True, True, False]
    assert np.array_equal(found.input_ids, whole.input_ids)
    assert np.array_equal(found.labels[found.labels != IGNORE], whole.labels[found.labels != IGNORE])


@pytest.mark.parametrize("packing", [True, False])
def test_single_samples_are_left_as_they_are(packing: bool) -> None:
    whole = batch_of([[6, 4], [8]], [[0, 1], [0]], packing=packing)
    assert preferred(whole) is whole
