"""Do probabilities mean what they say? Expected calibration error (Guo et al. 2017). Pure.

Counts of bins add up over parts of a set, so that the error is exact however it is shared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Bins of equal width: (0, 1/15], (1/15, 2/15], ..."""

Floats = NDArray[np.float64]


def calibration_bins(probabilities: NDArray[Any], came_true: NDArray[Any]) -> Floats:
    """[BINS, 3]: statements whose probability lies in a bin, the sum of these, how many came true.

    probabilities, came_true: of statements, in any shape, the same for both.
    """
    said = np.nan_to_num(np.asarray(probabilities, dtype=np.float64)).ravel()
    true = np.asarray(came_true, dtype=np.float64).ravel()
    edges = np.linspace(0, 1, BINS + 1)
    places = np.clip(np.searchsorted(edges, said, side="left") - 1, 0, BINS - 1)
    bins: Floats = np.stack(
        [np.bincount(places, values, BINS) for values in (np.ones_like(said), said, true)], axis=1
    )
    return bins


def calibration_error(bins: Floats) -> float:
    """Mean over statements of how far their bin's mean probability is from the share that came true."""
    return float(np.abs(bins[:, 1] - bins[:, 2]).sum() / max(1.0, bins[:, 0].sum()))


def bin_rows(bins: Floats) -> list[dict[str, float]]:
    """Each bin that holds a statement, as JSON: `count`, and means `probability` and `came_true`."""
    return [
        {"count": int(count), "probability": float(said / count), "came_true": float(true / count)}
        for count, said, true in bins
        if count
    ]
