"""Batches on a device: which positions predict, and several trials in one row."""

from __future__ import annotations

import numpy as np
from objective_rows import CPU, batches

from raysft.objectives.batch import on_device


def test_what_predicts_is_all_but_the_last_of_each_segment() -> None:
    batch = on_device(batches(())[0], CPU)
    lasts = np.cumsum([5, 3, 4, 6]) - 1
    assert (~batch.predicts[0]).nonzero().flatten().tolist() == lasts.tolist()
    assert batch.is_first_of_atom.tolist() == [True, False, True, False]
    assert on_device(batches(())[2], CPU).num_atoms == 0
