"""Axolotl's `train_detail`: ranges of characters, against the set of characters that they name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.formats.train_detail import read_parts
from raysft.data.formats.values import RefusedError

RANGES = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 6), st.booleans()), min_size=1, max_size=5)


def turn(*ranges: tuple[int, int, bool], key: str = "train_detail") -> dict[str, Any]:
    """A turn with ranges of (first, last, trained)."""
    return {key: [{"begin_offset": a, "end_offset": b, "train": trained} for a, b, trained in ranges]}


@given(RANGES, st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_what_no_trained_range_names_is_not_trained(ranges: list[tuple[int, int, bool]], length: int) -> None:
    text = "abcdefghijkl"[:length]
    given = [(first, first + more, trained) for first, more, trained in ranges]
    found = read_parts(turn(*given), "assistant", text)
    named = {place for first, last, trained in given if trained for place in range(first, last + 1)}
    assert found is not None
    assert found.of == text
    left_out = [place for start, end in found.untrained for place in range(start, end)]
    assert left_out == [place for place in range(length) if place not in named]
    assert all(start <= end for start, end in found.untrained)


def test_both_keys_are_read_and_empty_ones_are_none() -> None:
    assert read_parts(turn((0, 1, True), key="training_detail"), "assistant", "abc").untrained == ((2, 3),)  # type: ignore[union-attr]
    for nothing in ({}, {"train_detail": None}, {"train_detail": []}):
        assert read_parts(nothing, "assistant", "abc") is None


def test_a_prompt_may_have_ranges_that_train_nothing() -> None:
    assert read_parts(turn((0, 1, False)), "user", "abc") is None
    with pytest.raises(RefusedError) as caught:
        read_parts(turn((0, 1, True)), "user", "abc")
    assert caught.value.refusal.reason == "trained_prompt"
    assert "role user" in caught.value.refusal.detail


@pytest.mark.parametrize(
    "wrong",
    [
        {"begin_offset": 2, "end_offset": 1, "train": True},
        {"begin_offset": -1, "end_offset": 1, "train": True},
        {"begin_offset": 0.0, "end_offset": 1, "train": True},
        {"begin_offset": True, "end_offset": 1, "train": True},
        {"begin_offset": 0, "end_offset": 1, "train": 1},
        {"begin_offset": 0, "end_offset": 1},
        {"begin_offset": 0, "end_offset": 1, "train": True, "weight": 2},
        "0-1",
    ],
)
def test_what_is_no_range_is_refused(wrong: object) -> None:
    with pytest.raises(RefusedError) as caught:
        read_parts({"train_detail": [wrong]}, "assistant", "abc")
    assert caught.value.refusal.reason == "wrong_type"
    assert "begin_offset, end_offset, train" in caught.value.refusal.detail
