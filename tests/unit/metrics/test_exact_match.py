"""Matches."""

from __future__ import annotations

import pytest

from raysft.metrics.base import Answer
from raysft.metrics.estimate import estimate
from raysft.metrics.exact_match import EXACT_MATCH, is_same_words, word_f1


def test_white_space_around_is_left_aside_and_nothing_else() -> None:
    texts = (("a\n", "a"), (" b", "b"), ("c", "x"), ("d e", "de"))
    assert estimate(EXACT_MATCH, [Answer("p", text, reference) for text, reference in texts]).value == 0.5


@pytest.mark.parametrize(
    ("said", "wanted", "same", "f1"),
    [
        ("The Eiffel Tower.", "eiffel tower", True, 1.0),
        ("Eiffel", "the Eiffel Tower", False, 2 / 3),
        ("北京。", "北京", True, 1.0),
        ("我在北京", "北京", False, 2 * 2 / 6),
        ("ПАРИЖ!", "париж", True, 1.0),
        ("!", "?", False, 1.0),
        ("?", "?", True, 1.0),
        ("", "a b", False, 0.0),
    ],
)
def test_words_without_case_punctuation_and_articles(said: str, wanted: str, same: bool, f1: float) -> None:
    answer = Answer("p", said, wanted)
    assert is_same_words(answer) is same
    assert word_f1(answer) == pytest.approx(f1)
