"""Two classifiers on the same texts, against scipy's exact binomial test and scikit-learn's F1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from raysft.metrics.estimate import mcnemar
from raysft.metrics.labelled import compare_labels

COUNT = 120


def labelled(known: Any, told: Any, order: Any, **fields: Any) -> dict[str, Any]:
    """Of texts 0, 1, ... in an order of its own; the Brier score of a text is its number, more where it is wrong."""
    found = {
        "labels": ["a", "b", "c"],
        "texts": [f"t{i:03}" for i in order],
        "known": [[int(known[i])] for i in order],
    }
    found |= {"told": [[int(told[i])] for i in order], "brier": [float(i + (told[i] != known[i])) for i in order]}
    return {**found, **fields}


@pytest.mark.parametrize(("one", "other"), [(0, 0), (0, 1), (3, 9), (9, 3), (10, 10), (40, 80), (0, 2000)])
def test_mcnemar_is_the_exact_binomial_test(one: int, other: int) -> None:
    expected = binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected, rel=1e-9)


def test_the_same_texts_in_any_order() -> None:
    draw = np.random.default_rng(0)
    known = draw.integers(0, 3, COUNT)
    weak, strong = (np.where(draw.random(COUNT) < share, known, draw.integers(0, 3, COUNT)) for share in (0.3, 0.9))
    first = labelled(known, weak, range(COUNT))
    found = compare_labels(first, labelled(known, strong, draw.permutation(COUNT)))
    right = weak == known, strong == known
    accuracy, f1, brier = found["label_accuracy"], found["macro_f1"], found["brier"]
    assert accuracy.difference == pytest.approx(right[1].mean() - right[0].mean())
    lost, won = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert accuracy.p == pytest.approx(binomtest(lost, lost + won, 0.5).pvalue)
    scores = [f1_score(known, told, average="macro") for told in (weak, strong)]
    assert f1.difference == pytest.approx(scores[1] - scores[0])
    assert brier.difference == pytest.approx(right[0].mean() - right[1].mean())
    for one in found.values():
        assert one.low < one.difference < one.high
        assert (one.count, one.p < 0.01) == (COUNT, True)
    same = compare_labels(first, first)
    assert [(one.difference, one.p) for one in same.values()] == [(0.0, 1.0)] * 3


def test_what_is_not_the_same_is_not_compared() -> None:
    known, told = [0, 1, 2, 0], [0, 1, 1, 0]
    first = labelled(known, told, range(4))
    for other in (
        labelled(known, told, range(4), labels=["a", "c", "b"]),
        labelled(known, told, range(4), texts=["t000", "t001", "t002", "another"]),
        labelled([0, 1, 2, 1], told, range(4)),
        labelled(known, told, range(3)),
    ):
        assert compare_labels(first, other) == {}
    one = labelled(known, told, [0])
    assert compare_labels(one, one) == {}
