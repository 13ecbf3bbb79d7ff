"""The share of answers whose code passes, from what a scorer found of each."""

from __future__ import annotations

import pytest

from raysft.errors import UserError
from raysft.metrics.base import Answer, Score
from raysft.metrics.estimate import compare, estimate
from raysft.metrics.passes_tests import PASSES_TESTS, numbers_of


def scored(*kinds: str, by: str = "Python 3.11, 10 s, 1 GiB") -> list[Answer]:
    return [Answer("q", "a", "assert 1", {"passes_tests": Score(by, numbers_of(kind))}) for kind in kinds]


def test_the_share_with_its_interval_and_the_verdicts() -> None:
    """Wilson's interval of 3 of 5: 0.2307 to 0.8824 (Brown, Cai and DasGupta 2001, formula 4)."""
    found = estimate(PASSES_TESTS, scored("passed", "wrong", "passed", "time", "passed"))
    assert (found.value, found.count) == (0.6, 5)
    assert (found.low, found.high) == (pytest.approx(0.2307, abs=1e-4), pytest.approx(0.8824, abs=1e-4))
    assert found.details == {"verdicts": {"passed": 3, "wrong": 1, "time": 1}}
    assert found.how == "Python 3.11, 10 s, 1 GiB; passed 3, wrong 1, time 1"


def test_tests_that_test_nothing_are_doubted() -> None:
    assert "1 of 2 records" in estimate(PASSES_TESTS, scored("passed", "untested")).details["doubt"]


def test_two_models_are_compared_under_the_same_limits_alone() -> None:
    first, second = scored("wrong", "wrong", "passed"), scored("passed", "wrong", "passed")
    change = compare(PASSES_TESTS, first, second)
    assert change is not None
    assert change.difference == pytest.approx(1 / 3)
    assert compare(PASSES_TESTS, first, scored("passed", "wrong", "passed", by="Python 3.12, 1 s, 1 GiB")) is None


def test_answers_that_nobody_ran_have_no_value() -> None:
    with pytest.raises(UserError, match="no function of the texts"):
        estimate(PASSES_TESTS, [Answer("q", "a", "assert 1")])
