"""Plan and feed: which rows make a step, how replicas share it, and what a micro-batch holds."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
from fakes import FakeStore

from raysft.data.feed.collate import IGNORE, Feed, MicroBatch, Share, StepBatch, collate
from raysft.data.feed.replica_balance import Sync
from raysft.data.feed.rows import StoredRows
from raysft.data.feed.step_plan import Order
from raysft.objectives.base import Term, count_units

units = partial(count_units, (Term("nll", "target_token"),))
LENGTHS = [[9, 14, 5], [30], [3, 20], [12, 12], [2], [7, 7, 7], [25, 3], [16], [4, 4, 4, 4], [19], [11, 2]]


def replicas(
    store: FakeStore,
    step: int,
    *,
    num_replicas: int,
    micro: int,
    packing: bool = True,
    rows_per_step: int = 4,
    sync: Sync = "step",
) -> list[StepBatch]:
    order = Order(rows_per_step, 5)
    return [
        Feed(StoredRows(store, order), units, Share(replica, num_replicas, micro, packing, sync, 1000.0, 3.0)).step(
            step
        )  # type: ignore[arg-type]
        for replica in range(num_replicas)
    ]


def predictions(batch: MicroBatch) -> Counter[tuple[int, ...]]:
    """Each prediction as (the segment's tokens so far, the token to predict), read back from the arrays."""
    found: Counter[tuple[int, ...]] = Counter()
    for b in range(len(batch.labels)):
        for t in np.flatnonzero(batch.labels[b] != IGNORE):
            start = int(t - batch.position_ids[b, t])
            assert batch.position_ids[b, start : t + 1].tolist() == list(range(t + 1 - start))
            if batch.weights[b, t]:
                found[(*batch.input_ids[b, start : t + 1].tolist(), int(batch.labels[b, t]))] += 1
    return found


def reference(store: FakeStore, rows: list[int]) -> Counter[tuple[int, ...]]:
    """The same from the rows themselves."""
    found: Counter[tuple[int, ...]] = Counter()
    for row in (store.rows[i] for i in rows):
        start = 0
        for length in row.segment_fields["length"]:
            ids = row.token_fields["input_ids"][start : start + length].tolist()
            target = row.token_fields["target"][start : start + length]
            for t in range(1, int(length)):
                if target[t]:
                    found[tuple(ids[: t + 1])] += 1
            start += int(length)
    return found


@pytest.mark.parametrize("num_replicas", [1, 2, 3])
@pytest.mark.parametrize("micro", [1, 2, 4])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
@pytest.mark.parametrize("sync", ["step", "micro_batch"])
def test_the_replicas_together_hold_the_plans_step(
    num_replicas: int, micro: int, packing: bool, step: int, sync: Sync
) -> None:
    store = FakeStore(LENGTHS)
    rows = store.plan(4, 5).rows(step).tolist()
    shares = replicas(store, step, num_replicas=num_replicas, micro=micro, packing=packing, sync=sync)
    batches = [batch for share in shares for batch in share.micro_batches]
    ids = sorted(int(i) for batch in batches for i in batch.sample_ids)
    assert ids == sorted(int(i) for row in rows for i in store.rows[row].segment_fields["sample_id"])
    assert sum((predictions(batch) for batch in batches), Counter()) == reference(store, rows)
    assert sum(batch.num_tokens for batch in batches) == sum(sum(LENGTHS[row]) for row in rows)
    assert sum(share.units["nll"] for share in shares) == reference(store, rows).total()
    assert len({len(share.micro_batches) for share in shares}) == 1
    assert sorted(batch.index for batch in batches) == list(range(len(batches)))


@pytest.mark.parametrize("sync", ["step", "micro_batch"])
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_a_micro_batch_is_the_same_whoever_runs_it(sync: Sync, micro: int) -> None:
    """Its number seeds its dropout, so the loss does not depend on the number of replicas."""
    store, found = FakeStore(LENGTHS), []
    for num_replicas in (1, 2, 3, 4):
        shares = replicas(store, 0, num_replicas=num_replicas, micro=micro, rows_per_step=9, sync=sync)
        batches = [batch for share in shares for batch in share.micro_batches if len(batch.sample_ids)]
        found.append({batch.index: batch.sample_ids.tolist() for batch in batches})
    assert all(f == found[0] for f in found)


def test_replicas_get_equal_work() -> None:
    store = FakeStore([[60]] * 2 + [[6] * 10] * 6)  # 60 tokens each; a long one costs 2.6 times a row of short ones
    shares = replicas(store, 0, num_replicas=2, micro=1, rows_per_step=8)
    assert [sum(len(b.sample_ids) == 1 for b in share.micro_batches) for share in shares] == [1, 1]
    shares = replicas(store, 0, num_replicas=2, micro=1, rows_per_step=8, sync="micro_batch")
    assert [[len(b.sample_ids) for b in share.micro_batches] for share in shares] == [[1, 10, 10, 10]] * 2


@pytest.mark.parametrize("packing", [True, False])
def test_units_of_a_share_are_the_weights_in_its_tensors(packing: bool) -> None:
    for share in replicas(FakeStore(LENGTHS), 0, num_replicas=3, micro=1, packing=packing):
        weights = sum(float(batch.weights[batch.labels != IGNORE].sum()) for batch in share.micro_batches)
        assert share.units == {"nll": weights}
        assert all(not batch.weights[batch.labels == IGNORE].any() for batch in share.micro_batches)


def test_the_last_step_of_an_epoch_is_short_and_nobody_lacks_a_micro_batch() -> None:
    shares = replicas(FakeStore(LENGTHS), 2, num_replicas=2, micro=2)  # 11 rows in steps of 4: 3 left
    assert [len(share.micro_batches) for share in shares] == [1, 1]
    shares = replicas(FakeStore(LENGTHS[:5]), 1, num_replicas=3, micro=1)  # 1 row for 3 replicas
    empty = [batch for share in shares[1:] for batch in share.micro_batches]
    assert len(empty) == 2
    for batch in empty:
        assert batch.input_ids.shape == batch.labels.shape == (1, 2)
        assert (batch.labels != IGNORE).any()  # the head runs, so that its gradient exists on every rank
        assert not batch.weights.any()
        assert (batch.num_tokens, len(batch.sample_ids)) == (0, 0)
    assert [share.units["nll"] > 0 for share in shares] == [True, False, False]


def test_packing_keeps_rows_and_unpacking_explodes_them() -> None:
    store = FakeStore([[5, 3], [6]])
    packed = collate(store.read_rows([0, 1]), 0, packing=True)
    assert packed.input_ids.shape == (2, 8)
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 3, 4, 5, 0, 1]]
    alone = collate(store.read_rows([0, 1]), 0, packing=False)
    assert alone.input_ids.shape == (3, 6)
    assert alone.position_ids.tolist() == [[0, 1, 2, 3, 4, 0], [0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]]
    assert predictions(packed) == predictions(alone)


def test_the_last_token_of_a_segment_predicts_nothing() -> None:
    batch = collate(FakeStore([[4, 4]]).read_rows([0]), 0, packing=True)
    assert batch.labels[0, 3] == batch.labels[0, 7] == IGNORE
    assert batch.weights[0, 3] == 0


def test_array_types_are_those_of_torch() -> None:
    batch = collate(FakeStore([[4, 4], [3]]).read_rows([0, 1]), 7, packing=True)
    for array in (batch.input_ids, batch.position_ids, batch.labels, batch.sample_ids):
        assert array.dtype == np.int64
    assert batch.weights.dtype == np.float32
    assert batch.index == 7


def test_fractional_weights_are_kept() -> None:
    store = FakeStore([[6]])
    store.rows[0].token_fields["target"][:] = [0, 0, 0.5, 0, 2.0, 1.0]
    batch = collate(store.read_rows([0]), 0, packing=True)
    assert batch.weights[0].tolist() == [0, 0.5, 0, 2.0, 1.0, 0]
    assert (batch.labels[0] != IGNORE).tolist() == [False, True, False, True, True, False]
    assert units(store.rows[:1]) == {"nll": 3.5}


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_held_out_rows_come_in_order_and_at_most_as_many_as_asked(num_replicas: int) -> None:
    store = FakeStore(LENGTHS)
    for limit in (1, 4, 6, 99):
        ids: list[int] = []
        for replica in range(num_replicas):
            feed = Feed(
                StoredRows(store, Order(4, 0)), units, Share(replica, num_replicas, 2, True, "step", 1.0, 0.0)
            )  # type: ignore[arg-type]
            for batch in map(feed.batch, StoredRows(store, Order(4, 0)).first(limit)):
                ids += [int(i) for micro in batch.micro_batches for i in micro.sample_ids]
        expected = [int(i) for row in store.rows[:limit] for i in row.segment_fields["sample_id"]]
        assert sorted(ids) == expected
