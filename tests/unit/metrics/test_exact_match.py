"""Exact match."""

from __future__ import annotations

from raysft.metrics.base import Answer
from raysft.metrics.exact_match import EXACT_MATCH


def test_white_space_around_is_left_aside_and_nothing_else() -> None:
    pairs = (("a\n", "a"), (" b", "b"), ("c", "x"), ("d e", "de"))
    assert EXACT_MATCH.estimate([Answer("p", text, reference) for text, reference in pairs]).value == 0.5
