"""Counts of labels, and the refusal of one without an example."""

from __future__ import annotations

import numpy as np
import pytest

from raysft.data.prepare.class_counts import count_classes, refuse_empty
from raysft.errors import DataError
from raysft.recipe.columns import Classes


def test_counts_of_one_label_and_of_several() -> None:
    one, several = Classes(("a", "b", "c")), Classes(("a", "b"), several=True)
    assert count_classes(np.array([0, 2, 2], np.float32), one) == {"a": 1, "b": 0, "c": 2}
    assert count_classes(np.array([[1, 1], [0, 1]], np.float32), several) == {"a": 1, "b": 2}


def test_a_label_without_an_example_is_refused() -> None:
    refuse_empty({"a": 1, "b": 2})
    with pytest.raises(DataError, match="no example") as found:
        refuse_empty({"a": 1_000, "b": 0})
    assert "'b'; a 1,000" in found.value.got
