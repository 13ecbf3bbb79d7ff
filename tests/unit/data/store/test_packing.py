from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.store.packing import pack
from raysft.errors import DataError


def check(lengths: np.ndarray, capacity: int) -> int:
    rows = pack(lengths, capacity)
    placed = np.concatenate(rows) if rows else np.zeros(0, int)
    assert sorted(placed.tolist()) == list(range(len(lengths))), "every atom once"
    assert all(len(row) and lengths[row].sum() <= capacity for row in rows)
    return len(rows)


@st.composite
def atoms(draw):
    capacity = draw(st.integers(1, 300))
    many = st.lists(st.integers(1, capacity), max_size=200)
    repeated = st.lists(
        st.sampled_from(draw(st.lists(st.integers(1, capacity), min_size=1, max_size=4))), max_size=200
    )
    return np.array(draw(many | repeated), dtype=np.int64), capacity


@settings(max_examples=150, deadline=None)
@given(atoms())
def test_every_atom_once_and_no_row_too_long(case):
    lengths, capacity = case
    rows = check(lengths, capacity)
    # Any two rows could not be one, or nearly so: no heuristic that fills greedily needs twice the bound.
    assert rows <= 2 * -(-int(lengths.sum()) // capacity) + 1


@pytest.mark.parametrize(
    ("lengths", "capacity", "rows"),
    [
        ([], 8, 0),
        ([8], 8, 1),
        ([8] * 3, 8, 3),
        ([4] * 4, 8, 2),
        ([3, 5, 5, 3], 8, 2),
        ([6, 4, 3, 3], 8, 3),
        ([1] * 9, 4, 3),
    ],
)
def test_small_cases(lengths, capacity, rows):
    assert check(np.array(lengths, dtype=np.int64), capacity) == rows


def test_deterministic():
    lengths = np.random.default_rng(1).integers(1, 500, 5000)
    first, second = pack(lengths, 2048), pack(lengths.astype(np.int32), 2048)
    assert [row.tolist() for row in first] == [row.tolist() for row in second]


def gsm8k_like() -> np.ndarray:
    """Log-normal around 170 tokens, 60 to 550, as GSM8K's lengths are."""
    return np.clip(np.random.default_rng(0).lognormal(5.15, 0.35, 7473), 60, 550).astype(np.int64)


@pytest.mark.parametrize("capacity", [2048, 4096, 8192])
def test_close_to_the_lower_bound(capacity):
    lengths = gsm8k_like()
    assert check(lengths, capacity) <= 1.001 * -(-int(lengths.sum()) // capacity) + 1


@pytest.mark.shared
@pytest.mark.parametrize("capacity", [1024, 2048])
def test_close_to_the_lower_bound_on_gsm8k(shared, capacity):
    records = [json.loads(line) for line in (shared / "gsm8k_train.jsonl").read_text("utf-8").splitlines()]
    lengths = np.array([10 + len((r["question"] + r["answer"]).encode()) // 4 for r in records])
    assert check(lengths, capacity) <= 1.001 * -(-int(lengths.sum()) // capacity) + 1


@pytest.mark.parametrize("capacity", [4096, 16_384])
def test_windows_of_a_chat_mix_reach_the_bound(capacity):
    """5% of the samples are long and hold a third of the tokens: the 200k-sample file of `make bench-packing`."""
    random = np.random.default_rng(0)
    lengths = random.lognormal(6.2, 0.9, 3 * 16_384)
    tail = random.random(len(lengths)) < 0.05
    lengths[tail] = random.lognormal(8.6, 0.7, tail.sum())
    for window in np.split(np.clip(lengths, 8, capacity).astype(np.int64), 3):
        assert check(window, capacity) <= 1.001 * -(-int(window.sum()) // capacity) + 1


def test_atoms_of_one_length_are_taken_in_their_order():
    rows = pack(np.array([3, 3, 4, 3, 4, 3, 3, 3]), 12)
    taken = np.concatenate(rows).tolist()
    assert [atom for atom in taken if atom in (2, 4)] == [2, 4]
    assert [atom for atom in taken if atom not in (2, 4)] == [0, 1, 3, 5, 6, 7]


def test_fast_enough_for_a_window_of_long_rows():
    lengths = np.clip(np.random.default_rng(0).lognormal(8, 1.5, 16_384), 1, 131_072).astype(np.int64)
    start = time.perf_counter()
    check(lengths, 131_072)
    assert time.perf_counter() - start < 5


def test_an_atom_longer_than_a_row():
    with pytest.raises(DataError, match="longer than a row"):
        pack(np.array([3, 9]), 8)
