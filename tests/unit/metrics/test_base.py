"""Shares of right answers, and how sure they are."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from raysft.metrics import METRICS
from raysft.metrics.base import Answer, Share, wilson


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (0, 10), (10, 10), (3, 7), (192, 200), (1, 100_000)])
def test_the_interval_is_wilsons(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_counts() -> None:
    share = Share("long", "long answers", lambda answer: len(answer.text) > len(answer.reference))
    found = share.estimate([Answer("p", text, "ab") for text in ("abc", "ab", "a", "abcd")])
    assert (found.value, found.count) == (0.5, 4)
    assert (found.low, found.high) == wilson(2, 4)
    assert share.shown(found.value) == "50.0%"


def test_every_metric_stands_under_its_name() -> None:
    assert all(
        metric.name == name and metric.title and metric.better in ("min", "max") for name, metric in METRICS.items()
    )
