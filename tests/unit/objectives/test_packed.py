"""Many tensors in one buffer."""

from __future__ import annotations

import torch
from objective_rows import batches

from raysft.objectives.batch import on_host
from raysft.objectives.packed import pack, unpack
from raysft.recipe.columns import REFERENCE_LOG_PROB, reference_top_k

COLUMNS = (REFERENCE_LOG_PROB, *reference_top_k(2))


def test_tensors_are_the_same_from_one_buffer() -> None:
    batch = on_host(batches(COLUMNS)[1])
    tensors = (
        *batch[:7],
        *batch.fields.values(),
        *batch.known.tensors,
        torch.ones(0, 3),
        torch.arange(6).view(2, 3).T,
    )
    packed = pack(tensors, pinned=False)
    assert packed.dtype == torch.uint8
    for one, other in zip(unpack(packed, tensors), tensors, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
        assert one.untyped_storage().data_ptr() == packed.data_ptr(), "one copy brings all"
