"""Accuracy, F1 and the confusion matrix against scikit-learn's; what the classifier says of each text alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from raysft.evaluate.classified import classification_record
from raysft.observe.labels import label_lines
from raysft.recipe.columns import Classes

LABELS = ("red", "green", "blue")


def hot(numbers: Any) -> Any:
    return np.eye(3, dtype=bool)[numbers]


def test_one_label_each_equals_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    known, told = draw.integers(0, 3, 50), draw.integers(0, 3, 50)
    record = classification_record((hot(known), hot(told)), Classes(LABELS))
    assert record["metrics"]["label_accuracy"]["value"] == pytest.approx((known == told).mean())
    assert record["metrics"]["macro_f1"]["value"] == pytest.approx(f1_score(known, told, average="macro"))
    assert record["classes"]["confusion"] == confusion_matrix(known, told).tolist()
    precision, recall, f1, counts = precision_recall_fscore_support(known, told)
    for row, expected in zip(record["classes"]["rows"], zip(counts, precision, recall, f1, strict=True), strict=True):
        assert [row[name] for name in ("count", "precision", "recall", "f1")] == pytest.approx(expected)
    low, high = (record["metrics"]["label_accuracy"][end] for end in ("low", "high"))
    assert low < record["metrics"]["label_accuracy"]["value"] < high


def test_several_labels_equal_scikit_learn() -> None:
    draw = np.random.default_rng(1)
    known, told = draw.random((40, 3)) > 0.5, draw.random((40, 3)) > 0.3
    record = classification_record((known, told), Classes(LABELS, several=True))
    assert record["metrics"]["macro_f1"]["value"] == pytest.approx(f1_score(known, told, average="macro"))
    assert record["metrics"]["label_accuracy"]["value"] == pytest.approx((known == told).all(1).mean())
    assert record["classes"]["confusion"] is None
    assert len(label_lines(record["classes"])) == 4


def test_a_label_that_nobody_has_or_gives_is_worth_nothing() -> None:
    record = classification_record((hot([0, 0, 1]), hot([0, 0, 0])), Classes(LABELS))
    assert [row["f1"] for row in record["classes"]["rows"]] == pytest.approx([0.8, 0, 0])
    lines = label_lines(record["classes"])
    assert lines[2].split() == ["green", "1", "0.0%", "0.0%", "0.0%", "1", "0", "0"]
