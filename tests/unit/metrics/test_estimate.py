"""Intervals and tests of differences, against scipy and against sampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, permutation_test

from raysft.metrics import METRICS
from raysft.metrics.base import Answer, mean
from raysft.metrics.estimate import compare, estimate, wilson

SCORE = mean("score", "score", lambda answer: float(answer.text))


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (0, 10), (10, 10), (3, 7), (192, 200), (1, 100_000)])
def test_the_interval_of_a_share_is_wilsons(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def scored(values: np.ndarray) -> list[Answer]:
    return [Answer(f"q{number}", repr(float(value)), "") for number, value in enumerate(values)]


def test_the_interval_of_a_mean_is_that_of_scipys_bootstrap() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=150)
    found = estimate(SCORE, scored(values))
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=9999, random_state=3)
    low, high = expected.confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))
    assert estimate(SCORE, scored(values)) == found  # by seed


@pytest.mark.parametrize("values", [np.ones(1), np.zeros(40)])
def test_of_answers_that_are_alike_no_interval_is_known(values: np.ndarray) -> None:
    found = estimate(SCORE, scored(values))
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.25, 3.0])
def test_p_is_that_of_scipys_permutation_test(shift: float) -> None:
    dice = np.random.default_rng(2)
    first = dice.normal(size=40)
    second = first + shift + dice.normal(scale=0.7, size=40)
    found = compare(SCORE, scored(first), scored(second))
    expected = permutation_test(
        (first, second),
        lambda one, other: np.mean(other) - np.mean(one),
        permutation_type="samples",
        n_resamples=9999,
        rng=4,
        vectorized=False,
    )
    assert found is not None
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert found.low < found.difference < found.high
    assert found.p == pytest.approx(expected.pvalue, abs=0.05)
    assert (found.p < 0.001) is (shift == 3.0)


def test_models_that_are_the_same_do_not_differ() -> None:
    answers = scored(np.arange(9.0))
    found = compare(SCORE, answers, answers)
    assert found is not None
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_false_alarm_is_as_rare_as_it_should_be() -> None:
    dice = np.random.default_rng(5)
    found = [compare(SCORE, scored(dice.normal(size=12)), scored(dice.normal(size=12))) for _ in range(20)]
    assert sum(one.p < 0.05 for one in found if one is not None) <= 4  # of 20: 1 is to be expected


def test_only_answers_to_the_same_prompts_are_compared() -> None:
    answers = scored(np.arange(9.0))
    assert compare(SCORE, answers, answers[::-1]) is None
    assert compare(SCORE, answers, answers[:-1]) is None
    assert compare(SCORE, answers[:1], answers[:1]) is None
    assert compare(SCORE, [], []) is None
    assert compare(METRICS["distinct_1"], answers, answers) is None
