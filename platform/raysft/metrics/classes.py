"""Measures of a classifier from sums over its texts, so that they are exact however texts are shared. Pure.

The numbers of a text, added up over a set: for each label whether it is the data's and the model's, the data's, the
model's [3 x labels]; bins of probabilities [BINS x 3] (calibration.py); Brier score; 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raysft.metrics.calibration import BINS, calibration_error

CLASS_MEASURES = ("macro_f1", "ece", "brier")


def num_counts(labels: int) -> int:
    """Numbers of a text."""
    return 3 * labels + 3 * BINS + 2


def class_measures(sums: Sequence[float]) -> dict[str, float]:
    """{measure: value} of a set; empty of no text."""
    known = np.asarray(sums, dtype=np.float64)
    by_label, bins, (brier, texts) = known[: -3 * BINS - 2], known[-3 * BINS - 2 : -2], known[-2:]
    if not texts:
        return {}
    return {
        "macro_f1": macro_f1(by_label),
        "ece": calibration_error(bins.reshape(BINS, 3)),
        "brier": float(brier / texts),
    }


def macro_f1(sums: NDArray[np.float64]) -> float:
    """The mean over all labels of their F1, 0 where a label is nobody's. sums [3 x labels]: both, data's, model's."""
    both, known, told = sums.reshape(3, -1)
    return float((2 * both / np.maximum(known + told, 1)).mean())
