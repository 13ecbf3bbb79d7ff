"""chrF by hand."""

from __future__ import annotations

import pytest

from raysft.metrics.base import Answer
from raysft.metrics.chrf import CHRF
from raysft.metrics.estimate import estimate


def test_two_letters_of_three() -> None:
    """1-grams: 2 of 2 and of 3; 2-grams: 1 of 1 and of 2; no longer ones on both sides."""
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    found = estimate(CHRF, [Answer("q", "a b", "abc")])
    assert found.value == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))
