"""Shares and means of answers."""

from __future__ import annotations

from raysft.metrics.base import Answer, mean, ratio, share
from raysft.metrics.estimate import estimate, wilson


def test_a_share_counts() -> None:
    longer = share("long", "long answers", lambda answer: len(answer.text) > len(answer.reference))
    found = estimate(longer, [Answer("p", text, "ab") for text in ("abc", "ab", "a", "abcd")])
    assert (found.value, found.count) == (0.5, 4)
    assert (found.low, found.high) == wilson(2, 4)
    assert longer.shown(found.value) == "50.0%"


def test_a_mean_is_over_answers() -> None:
    letters = mean("letters", "letters", lambda answer: len(answer.text), how="counted")
    found = estimate(letters, [Answer("p", text, "") for text in ("abc", "", "a", "abcd")])
    assert (found.value, found.count, found.how) == (2.0, 4, "counted")


def test_nothing_of_nothing_is_nothing() -> None:
    assert ratio((0.0, 0.0)) == 0.0
