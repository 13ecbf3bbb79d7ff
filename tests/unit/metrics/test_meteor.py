"""METEOR says what it does, on every machine alike."""

from __future__ import annotations

import pytest

from raysft.metrics.base import Answer
from raysft.metrics.estimate import estimate
from raysft.metrics.meteor import METEOR


def test_stems_match_and_synonyms_do_not() -> None:
    stems = estimate(METEOR, [Answer("q", "the trains run", "the train runs")])
    synonyms = estimate(METEOR, [Answer("q", "the car", "the automobile")])
    assert stems.value == pytest.approx(1 - 0.5 * (1 / 3) ** 3)  # one chunk of three
    assert synonyms.value == pytest.approx(0.5 * (1 - 0.5))  # one word of two: precision and recall 1/2, one chunk
    assert "no synonyms" in stems.how
