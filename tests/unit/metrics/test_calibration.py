"""Calibration error of cases worked out by hand, of parts that are put together, and of odd numbers."""

from __future__ import annotations

import numpy as np
import pytest

from raysft.metrics.calibration import BINS, bin_rows, calibration_bins, calibration_error


def test_what_is_as_sure_as_it_is_right_has_no_error() -> None:
    bins = calibration_bins(np.array([0.75] * 4), np.array([1, 1, 1, 0]))
    assert calibration_error(bins) == 0
    assert bin_rows(bins) == [{"count": 4, "probability": 0.75, "came_true": 0.75}]


def test_too_sure_and_not_sure_enough_do_not_cancel() -> None:
    bins = calibration_bins(np.array([0.9] * 10 + [0.3] * 10), np.array([1] * 7 + [0] * 3 + [1] * 5 + [0] * 5))
    assert calibration_error(bins) == pytest.approx((0.2 + 0.2) / 2)


def test_ends_of_bins_belong_below_and_nothing_falls_out() -> None:
    edges = np.linspace(0, 1, BINS + 1)
    counts = calibration_bins(edges, np.ones(BINS + 1))[:, 0]
    assert counts.tolist() == [2, *[1] * (BINS - 1)]  # 0 and 1/15 in the first, 1 in the last
    odd = calibration_bins(np.array([np.nan, -0.1, 1.1]), np.array([0, 0, 1]))
    assert odd[:, 0].sum() == 3
    assert np.isfinite(odd).all()
    assert calibration_error(np.zeros((BINS, 3))) == 0


def test_parts_add_up() -> None:
    draw = np.random.default_rng(0)
    said, true = draw.random(1000), draw.random(1000) > 0.4
    parts = sum(calibration_bins(said[start::7], true[start::7]) for start in range(7))
    assert calibration_error(parts) == pytest.approx(calibration_error(calibration_bins(said, true)), abs=1e-12)
