"""Equal work: what is assigned, how even it is, and what it may depend on. Exhaustive search is the reference."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.feed.replica_balance import Sync, arrange, assign, numbers
from raysft.data.store.packing import pack

EIGHT_B = (6 * 7.5e9, 6.0 * 32 * 4096)
"""token_flops and square_flops of Llama 3 8B: 7.5e9 weights per token, 32 layers of 32 heads x 128."""
SMALL = (6 * 0.596e9, 6.0 * 28 * 2048)
"""Qwen3 0.6B: 28 layers of 16 heads x 128."""


def lost(costs: np.ndarray, places: np.ndarray, sync: Sync) -> float:
    """Share of time spent waiting: 1 - mean / largest, by the definition of each model."""
    total, took = sum(costs.tolist()), 0.0
    replicas = [[sum(costs[r] for r in micro if r >= 0) for micro in replica] for replica in places.tolist()]
    if sync == "step":
        took = max(sum(micros) for micros in replicas)
    else:
        took = sum(max(replica[micro] for replica in replicas) for micro in range(places.shape[1]))
    return 1 - total / len(replicas) / took


@settings(max_examples=80, deadline=None)
@given(
    costs=st.lists(st.floats(0, 1e15), min_size=1, max_size=40),
    replicas=st.integers(1, 9),
    rows=st.integers(1, 5),
    sync=st.sampled_from(["step", "micro_batch"]),
)
def test_every_row_has_one_place_and_empty_ones_come_last(
    costs: list[float], replicas: int, rows: int, sync: Sync
) -> None:
    places = assign(np.array(costs), replicas, rows, sync)
    num_batches = -(-len(costs) // rows)
    assert places.shape == (replicas, -(-num_batches // replicas), rows)
    assert places.dtype == np.int64
    assert sorted(places[places >= 0].tolist()) == list(range(len(costs)))
    for replica in places:
        filled = [bool((micro >= 0).any()) for micro in replica]
        assert filled == sorted(filled, reverse=True)
    assert sorted(numbers(places).ravel().tolist()) == list(range(places.shape[0] * places.shape[1]))


@pytest.mark.parametrize("sync", ["step", "micro_batch"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_micro_batch_keeps_its_rows_and_number_when_replicas_come_and_go(sync: Sync, rows: int) -> None:
    """Dropout is seeded by the number: the loss must not depend on the number of workers."""
    costs = np.random.default_rng(3).lognormal(0, 1, 29)
    found = []
    for replicas in (1, 2, 3, 5, 8):
        places = assign(costs, replicas, rows, sync)
        pairs = zip(numbers(places).ravel().tolist(), places.reshape(-1, rows).tolist(), strict=True)
        found.append({number: sorted(r for r in batch if r >= 0) for number, batch in pairs if max(batch) >= 0})
    assert all(f == found[0] for f in found)


def best(costs: list[float], replicas: int, sync: Sync) -> float:
    """The shortest step over all assignments of single rows."""
    micros = len(costs) // replicas
    shortest = float("inf")
    for order in itertools.permutations(range(len(costs))):
        grid = [[costs[order[r * micros + m]] for m in range(micros)] for r in range(replicas)]
        took = max(map(sum, grid)) if sync == "step" else sum(max(column) for column in zip(*grid, strict=True))
        shortest = min(shortest, took)
    return shortest


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("replicas", [2, 3])
def test_close_to_the_best_of_all_assignments(seed: int, replicas: int) -> None:
    costs = np.random.default_rng(seed).lognormal(0, 0.7, 6)
    for sync, slack in (("step", 1.10), ("micro_batch", 1 + 1e-6)):  # neighbours of a sorted list are optimal
        places = assign(costs, replicas, 1, sync)  # type: ignore[arg-type]
        took = costs.sum() / replicas / (1 - lost(costs, places, sync))  # type: ignore[arg-type]
        assert took <= slack * best(costs.tolist(), replicas, sync)  # type: ignore[arg-type]


def realistic_rows(windows: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, squares) of rows of 16,384 packed from a chat mix: 5% of the samples are long, 33% of the tokens."""
    random, tokens, squares = np.random.default_rng(0), [], []
    for _ in range(windows):
        lengths = random.lognormal(6.2, 0.9, 16_384)
        tail = random.random(len(lengths)) < 0.05
        lengths[tail] = random.lognormal(8.6, 0.7, tail.sum())
        whole = np.clip(lengths, 8, 16_384).astype(np.int64)
        for row in pack(whole, 16_384):
            tokens.append(whole[row].sum())
            squares.append((whole[row] ** 2).sum())
    return np.array(tokens), np.array(squares)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    return realistic_rows()


@pytest.mark.parametrize(("model", "limit"), [(EIGHT_B, 0.01), (SMALL, 0.015)])
@pytest.mark.parametrize("sync", ["step", "micro_batch"])
def test_little_is_lost_at_64_replicas(
    rows: tuple[np.ndarray, np.ndarray], model: tuple[float, float], limit: float, sync: Sync
) -> None:
    tokens, squares = rows
    costs = model[0] * tokens + model[1] * squares
    shuffled = np.random.default_rng(1).permutation(len(costs))
    plan, at_random, ours = arrange(shuffled, squares, 512), [], []
    for start in range(0, len(costs) - 511, 512):
        at_random.append(lost(costs[shuffled[start : start + 512]], np.arange(512).reshape(64, 8, 1), sync))
        step = costs[plan[start : start + 512]]
        ours.append(lost(step, assign(step, 64, 1, sync), sync))
    assert np.mean(ours) <= limit
    assert np.mean(at_random) >= 4 * limit, "too easy"


def test_fast_enough_for_every_step(rows: tuple[np.ndarray, np.ndarray]) -> None:
    costs = (SMALL[0] * rows[0] + SMALL[1] * rows[1])[:512]
    times = []
    for _ in range(5):
        start = time.process_time()
        assign(costs, 64, 1, "step")
        times.append(time.process_time() - start)
    assert min(times) < 0.005


def test_the_same_whatever_the_unit_of_cost() -> None:
    """Sums are of integers: no float rounding decides where a row goes."""
    costs = np.random.default_rng(2).integers(1, 2**30, 100).astype(np.float64)
    costs[0] = 2**30
    for scale in (2.0**-40, 2.0**20):
        assert np.array_equal(assign(costs * scale, 7, 2, "step"), assign(costs, 7, 2, "step"))


def test_costs_of_zero_are_no_trouble() -> None:
    assert sorted(assign(np.zeros(5), 2, 1, "step").ravel().tolist()) == [-1, 0, 1, 2, 3, 4]
    assert sorted(assign(np.zeros(1), 3, 2, "micro_batch").ravel().tolist()) == [-1] * 5 + [0]


@settings(max_examples=80, deadline=None)
@given(n=st.integers(0, 120), rows_per_step=st.integers(1, 40), taken=st.integers(0, 100), seed=st.integers(0, 9))
def test_arranging_keeps_every_row_and_leaves_what_makes_no_whole_step(
    n: int, rows_per_step: int, taken: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    order, squares = random.permutation(n) + 50, random.integers(1, 9, n + 50)
    done = arrange(order, squares, rows_per_step, taken)
    assert sorted(done.tolist()) == sorted(order.tolist())
    head = -taken % rows_per_step
    assert done[:head].tolist() == order[:head].tolist()
    tail = max(0, n - head) % rows_per_step
    assert done[n - tail :].tolist() == order[n - tail :].tolist()


def test_each_step_has_a_run_of_neighbours_from_every_layer() -> None:
    squares = np.random.default_rng(0).permutation(8 * 64).astype(np.int64)
    order = np.random.default_rng(1).permutation(8 * 64)
    steps = np.sort(squares[arrange(order, squares, 64)].reshape(8, 64), axis=1)
    for step in steps:
        runs = step.reshape(8, 8)
        assert all(run.tolist() == list(range(run[0], run[0] + 8)) for run in runs)
        assert [int(run[0]) // 64 for run in runs] == list(range(8))


def test_every_row_comes_to_every_step_equally_often() -> None:
    """Nobody trains on long samples first: over many shuffles a row's step is uniform."""
    squares = np.arange(16, dtype=np.int64) ** 2
    count = np.zeros((16, 4), dtype=int)
    for seed in range(2000):
        for step, members in enumerate(
            arrange(np.random.default_rng(seed).permutation(16), squares, 4).reshape(4, 4)
        ):
            count[members, step] += 1
    assert abs(count - 500).max() < 120  # 6 sigma
