"""What makes up an epoch: counts against exact fractions, orders against sorting written here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.store.mixture import Samples, sequence, source_counts
from raysft.errors import DataError
from raysft.recipe.sections.data import MixtureSection, SourceSection


def sources(*fields: dict[str, Any]) -> list[SourceSection]:
    return [SourceSection(path=(f"{number}.jsonl",), **each) for number, each in enumerate(fields)]


def samples(*sizes: int, **columns: Any) -> Samples:
    n = sum(sizes)
    return Samples(
        id=np.arange(1000, 1000 + n),
        source=np.repeat(np.arange(len(sizes)), sizes),
        length=np.random.default_rng(0).integers(1, 100, n),
        **columns,
    )


def counts(table: Samples, order: np.ndarray) -> list[int]:
    return np.bincount(table.source[order], minlength=int(table.source.max()) + 1).tolist()


def test_by_default_every_sample_once_and_in_order() -> None:
    assert sequence(samples(3, 0, 4), sources({}, {}, {}), MixtureSection(), 5).tolist() == list(range(7))
    assert sequence(samples(0), sources({}), MixtureSection(), 5).tolist() == []


@pytest.mark.parametrize(("epochs", "expected"), [(1.0, 10), (2.0, 20), (0.5, 5), (2.3, 23), (0.01, 0), (1.04, 10)])
def test_epochs_of_a_source(epochs: float, expected: int) -> None:
    table = samples(10, 7)
    order = sequence(table, sources({"epochs": epochs}, {}), MixtureSection(), 0)
    assert counts(table, order) == [expected, 7]
    times = Counter(order[order < 10].tolist())
    assert all(int(epochs) <= times[line] <= int(epochs) + 1 for line in range(10))


def test_the_rest_of_an_epoch_is_chosen_by_seed_and_id_alone() -> None:
    table = samples(100)

    def chosen(seed: int, table: Samples = table) -> set[int]:
        return set(table.id[sequence(table, sources({"epochs": 0.3}), MixtureSection(), seed)].tolist())

    assert chosen(1) == chosen(1) != chosen(2)
    turned = Samples(id=table.id[::-1].copy(), source=table.source, length=table.length)
    assert chosen(1, turned) == chosen(1)
    often = Counter(i for seed in range(400) for i in chosen(seed))
    assert max(abs(often[i] - 120) for i in table.id.tolist()) < 60  # 6 sigma


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 50)), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_weights_are_exact_to_the_sample(parts: list[tuple[int, int]], seed: int) -> None:
    table = samples(*(size for size, _ in parts))
    order = sequence(table, sources(*({"weight": float(weight)} for _, weight in parts)), MixtureSection(), seed)
    total, weights = len(table.id), sum(weight for _, weight in parts)
    assert len(order) == total
    for number, ((size, weight), count) in enumerate(zip(parts, counts(table, order), strict=True)):
        assert abs(count - Fraction(total * weight, weights)) < 1
        times = np.bincount(order[table.source[order] == number], minlength=total)[table.source == number]
        assert set(times.tolist()) <= {count // size, count // size + 1}, "as even as can be"


def test_remainders_go_to_the_largest() -> None:
    weighted = sources({"weight": 1.0}, {"weight": 3.0}, {"weight": 5.0})  # 1.11, 3.33, 5.56 of 10
    assert source_counts([4, 4, 2], weighted, MixtureSection()) == [1, 3, 6]
    assert source_counts([1, 1, 0], sources({}, {}, {}), MixtureSection(temperature=1.0)) == [1, 1, 0]


def test_temperature() -> None:
    sizes = [10_000, 100]
    assert source_counts(sizes, sources({}, {}), MixtureSection(temperature=1.0)) == sizes
    share = 10_000**0.5 / (10_000**0.5 + 100**0.5)
    assert source_counts(sizes, sources({}, {}), MixtureSection(temperature=2.0)) == [
        round(10_100 * share),
        10_100 - round(10_100 * share),
    ]
    near_equal = source_counts(sizes, sources({}, {}), MixtureSection(temperature=1e6))
    assert abs(near_equal[0] - near_equal[1]) <= 2


def test_a_share_of_a_source_without_samples_is_refused() -> None:
    with pytest.raises(DataError, match=r"1\.jsonl has a weight, but no samples"):
        source_counts([5, 0], sources({"weight": 1.0}, {"weight": 1.0}), MixtureSection())


def test_sources_run_evenly_through_the_epoch() -> None:
    table = samples(30, 90, 6)
    order = sequence(table, sources({"epochs": 2.0}, {}, {}), MixtureSection(), 3)
    for start in range(0, len(order) - 26, 13):  # 156 samples in 60 : 90 : 6
        found = np.bincount(table.source[order[start : start + 26]], minlength=3)
        assert abs(found - np.array([10, 15, 1])).max() <= 1
    for number in range(3):
        own = order[table.source[order] == number]
        assert sorted(own[: np.unique(own).size].tolist()) == np.flatnonzero(table.source == number).tolist()


def test_groups_are_repeated_up_to_the_largest() -> None:
    group = np.array([0] * 7 + [1] * 3 + [-1] * 4 + [2] * 1)
    table = samples(10, 5, group=group)
    order = sequence(table, sources({}, {}), MixtureSection(balance_by="category"), 1)
    times = np.bincount(order, minlength=15)
    assert times[:7].tolist() == [1] * 7
    assert sorted(times[7:10].tolist()) == [2, 2, 3]
    assert times[10:14].tolist() == [1] * 4, "without a value: never repeated"
    assert times[14] == 7
    assert order.tolist() == sequence(table, sources({}, {}), MixtureSection(balance_by="category"), 1).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_groups_after_epochs(seed: int) -> None:
    """The second group has lines 3, 3, 4, 5 and gets two more: nobody twice before all others once."""
    table = samples(4, 2, group=np.array([0, 0, 0, 1, 1, 1]))
    order = sequence(table, sources({"epochs": 2.0}, {}), MixtureSection(balance_by="x"), seed)
    assert np.bincount(order)[:3].tolist() == [2, 2, 2]
    assert sorted((np.bincount(order)[3:] - [2, 1, 1]).tolist()) == [0, 1, 1]


@pytest.mark.parametrize("descending", [False, True])
def test_a_curriculum_is_a_stable_sort_with_unknown_values_at_the_end(descending: bool) -> None:
    key = np.array([3.0, np.nan, 1.0, 3.0, -2.0, np.nan, 1.0])
    table = samples(4, 3, key=key)
    order = sequence(table, sources({}, {}), MixtureSection(curriculum="difficulty", descending=descending), 0)
    known = sorted((i for i in range(7) if key[i] == key[i]), key=lambda i: -key[i] if descending else key[i])
    assert order.tolist() == [*known, 1, 5]


def test_a_curriculum_by_length_takes_repeats_along() -> None:
    table = samples(20, 10)
    order = sequence(table, sources({"epochs": 1.5}, {}), MixtureSection(curriculum="length"), 0)
    assert len(order) == 40
    assert (np.diff(table.length[order]) >= 0).all()


@pytest.mark.parametrize("mixture", [MixtureSection(balance_by="topic"), MixtureSection(curriculum="topic")])
def test_a_column_that_no_record_has(mixture: MixtureSection) -> None:
    with pytest.raises(DataError, match="no record has the column 'topic'"):
        sequence(samples(3), sources({}), mixture, 0)


def test_a_column_whose_values_are_all_missing() -> None:
    table = samples(3)
    none = replace(table, group=np.full(3, -1), key=np.full(3, np.nan))
    for mixture in (MixtureSection(balance_by="topic"), MixtureSection(curriculum="topic")):
        with pytest.raises(DataError, match="no record has the column 'topic'"):
            sequence(none, sources({}), mixture, 0)
