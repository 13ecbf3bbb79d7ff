"""Numbers that look random and are the same on every machine. numpy only."""

from __future__ import annotations

import numpy as np


def splitmix64(x: np.ndarray | np.uint64) -> np.ndarray:
    """Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators": the output function."""
    with np.errstate(over="ignore"):
        z = np.asarray(x, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
