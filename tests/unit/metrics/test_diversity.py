"""Repetition, by hand."""

from __future__ import annotations

import pytest

from raysft.metrics.base import Answer
from raysft.metrics.diversity import DISTINCT_1, DISTINCT_2, LENGTH, repeated
from raysft.metrics.estimate import estimate


def said(*texts: str) -> list[Answer]:
    return [Answer("q", text, "") for text in texts]


def test_distinct_n_grams_are_counted_over_all_answers() -> None:
    answers = said("a b a", "a b", "c")
    assert estimate(DISTINCT_1, answers).value == pytest.approx(3 / 6)
    found = estimate(DISTINCT_2, answers)
    assert found.value == pytest.approx(2 / 3)
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize(
    ("text", "share"), [("a b c d e", 0.0), ("x " * 10, 6 / 7), ("好" * 10, 6 / 7), ("a b", 0.0), ("", 0.0)]
)
def test_what_an_answer_repeats(text: str, share: float) -> None:
    assert repeated(said(text)[0]) == pytest.approx(share)


def test_length_is_in_characters() -> None:
    assert estimate(LENGTH, said("abc", "", "今天天")).value == 2.0
    assert LENGTH.better is None
