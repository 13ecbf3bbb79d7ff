"""Batches on a device: which positions predict, and what a forward is given of them."""

from __future__ import annotations

import numpy as np
import torch
from objective_rows import CPU, batches

from raysft.objectives.batch import DeviceBatch, on_device, on_host
from raysft.recipe.columns import REFERENCE_LOG_PROB, reference_top_k

COLUMNS = (REFERENCE_LOG_PROB, *reference_top_k(2))


def test_what_predicts_is_all_but_the_last_of_each_segment() -> None:
    batch = on_device(batches(())[0], CPU)
    lasts = np.cumsum([5, 3, 4, 6]) - 1
    assert (~batch.predicts[0]).nonzero().flatten().tolist() == lasts.tolist()
    assert batch.is_first_of_atom.tolist() == [True, False, True, False]
    assert on_device(batches(())[2], CPU).num_atoms == 0


def test_a_flat_batch_is_the_batch() -> None:
    batch = on_host(batches(COLUMNS)[0])
    again = DeviceBatch.of_flat(batch.flat(COLUMNS), COLUMNS)
    for one, other in zip(again.flat(COLUMNS), batch.flat(COLUMNS), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
