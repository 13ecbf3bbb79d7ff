"""Batches on a device: which positions predict, what the host knows of them, and how they get there."""

from __future__ import annotations

import numpy as np
import torch
from objective_rows import CPU, batches

from raysft.objectives.ahead import Ahead
from raysft.objectives.batch import DeviceBatch, on_device, on_host
from raysft.objectives.packed import pack, unpack
from raysft.recipe.columns import REFERENCE_LOG_PROB, reference_top_k

COLUMNS = (REFERENCE_LOG_PROB, *reference_top_k(2))


def test_what_predicts_is_all_but_the_last_of_each_segment() -> None:
    batch = on_device(batches(())[0], CPU)
    lasts = np.cumsum([5, 3, 4, 6]) - 1
    assert (~batch.predicts[0]).nonzero().flatten().tolist() == lasts.tolist()
    assert batch.is_first_of_atom.tolist() == [True, False, True, False]
    assert on_device(batches(())[2], CPU).num_atoms == 0


def test_what_is_known_of_rows_is_what_their_tensors_say() -> None:
    """The second batch has two rows, the first of them padded: 9 and 15 tokens."""
    batch = on_device(batches(())[1], CPU)
    known, starts = batch.known, [0, 2, 15, 18, 21, 26]
    assert known.firsts.index.tolist() == starts
    assert known.lasts.index.tolist() == [1, 8, 17, 20, 25, 29]
    assert known.borders.ends == (0, 2, 9, 15, 18, 21, 26, 30), "the padding is a segment, too"
    assert known.borders.starts.tolist() == list(known.borders.ends)
    assert known.borders.longest == 7
    assert known.trained.of(batch.labels).tolist() == batch.labels[batch.labels != -100].tolist()
    assert known.predicting.of(batch.labels).tolist() == batch.labels[batch.predicts].tolist()


def test_the_parts_of_two_ranks_are_those_of_the_rows() -> None:
    """15 tokens a row are padded to 16, so that each rank has 8; borders stay those of whole rows."""
    host = batches(())[1]
    whole, parts = on_host(host).known, [on_host(host, (rank, 2)).known for rank in range(2)]
    for kind in ("trained", "predicting", "firsts", "lasts"):
        expected = {(int(i) // 15, int(i) % 15) for i in vars(whole)[kind].index}
        found = [(int(i) // 8, int(i) % 8 + 8 * rank) for rank in range(2) for i in vars(parts[rank])[kind].index]
        assert set(found) == expected
        assert len(found) == len(expected)
    assert parts[0].borders.ends == parts[1].borders.ends == (0, 2, 9, 15, 16, 19, 22, 27, 31, 32)


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


def test_a_flat_batch_is_the_batch() -> None:
    batch = on_host(batches(COLUMNS)[0])
    again = DeviceBatch.of_flat(batch.flat(COLUMNS), COLUMNS)
    for one, other in zip(again.flat(COLUMNS), batch.flat(COLUMNS), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_batches_come_in_order_one_of_them_early_and_on_a_cpu_without_a_copy() -> None:
    host, asked = batches(()), []

    def given() -> object:
        for batch in host:
            asked.append(batch.index)
            yield batch

    found = []
    for number, batch in enumerate(Ahead(CPU)(given())):  # type: ignore[arg-type]
        assert len(asked) == min(number + 2, len(host))
        assert batch.input_ids.data_ptr() == host[number].input_ids.ctypes.data
        found.append(batch)
    assert len(found) == len(host)
    assert list(Ahead(CPU)([])) == []
