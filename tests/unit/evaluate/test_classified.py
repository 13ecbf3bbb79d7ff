"""Accuracy, F1, confusion matrix and Brier score against scikit-learn's; calibration error as it is defined."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from objective_rows import row as packed_row
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from raysft.evaluate.classified import Classified, classification_record, classify, labelled_record, text_key
from raysft.observe.labels import label_lines, reliability_chart
from raysft.recipe.columns import Classes

LABELS = ("red", "green", "blue")


def hot(numbers: Any) -> Any:
    return np.eye(3, dtype=bool)[numbers]


def one_label(known: Any, probabilities: Any) -> Classified:
    return Classified(hot(known), hot(probabilities.argmax(1)), probabilities)


def as_defined(probabilities: Any, came_true: Any) -> float:
    """Guo et al. 2017, equation 3, bin by bin: |B| / n times |acc(B) - conf(B)|, of (low, high]."""
    total = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [
            (p, t) for p, t in zip(probabilities, came_true, strict=True) if low < p <= high or p == number == 0
        ]
        if inside:
            mean, share = (sum(values) / len(inside) for values in zip(*inside, strict=True))
            total += len(inside) / len(probabilities) * abs(share - mean)
    return total


def test_one_label_each_equals_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    known, probabilities = draw.integers(0, 3, 200), draw.dirichlet((1, 1, 1), 200)
    told = probabilities.argmax(1)
    record = classification_record(one_label(known, probabilities), Classes(LABELS))
    assert record["metrics"]["label_accuracy"]["value"] == pytest.approx(accuracy_score(known, told))
    brier = brier_score_loss(known, probabilities, labels=[0, 1, 2], scale_by_half=False)
    assert record["metrics"]["brier"]["value"] == pytest.approx(brier, abs=1e-12)
    expected = as_defined(probabilities.max(1), known == told)
    assert record["metrics"]["ece"]["value"] == pytest.approx(expected, abs=1e-12)
    assert expected > 0.1
    assert record["metrics"]["macro_f1"]["value"] == pytest.approx(f1_score(known, told, average="macro"))
    assert record["classes"]["confusion"] == confusion_matrix(known, told).tolist()
    precision, recall, f1, counts = precision_recall_fscore_support(known, told)
    for row, expected in zip(record["classes"]["rows"], zip(counts, precision, recall, f1, strict=True), strict=True):
        assert [row[name] for name in ("count", "precision", "recall", "f1")] == pytest.approx(expected)
    for metric in ("label_accuracy", "macro_f1", "brier"):
        found = record["metrics"][metric]
        assert found["low"] < found["value"] < found["high"]
    assert record["metrics"]["ece"]["low"] is None


def test_an_interval_is_that_of_texts_drawn_again() -> None:
    draw = np.random.default_rng(5)
    known, probabilities = draw.integers(0, 3, 150), draw.dirichlet((1, 1, 1), 150)
    metrics = classification_record(one_label(known, probabilities), Classes(LABELS))["metrics"]
    samples = [draw.integers(0, 150, 150) for _ in range(500)]
    f1 = [f1_score(known[one], probabilities[one].argmax(1), average="macro") for one in samples]
    brier = [
        brier_score_loss(known[one], probabilities[one], labels=[0, 1, 2], scale_by_half=False) for one in samples
    ]
    for name, values in (("macro_f1", f1), ("brier", brier)):
        low, high = np.quantile(values, (0.025, 0.975))
        found = (metrics[name]["low"], metrics[name]["high"])
        assert found == pytest.approx((low, high), abs=0.15 * (high - low))


def test_several_labels_equal_scikit_learn() -> None:
    draw = np.random.default_rng(1)
    known, probabilities = draw.random((40, 3)) > 0.5, draw.random((40, 3))
    told = probabilities > 0.5
    record = classification_record(Classified(known, told, probabilities), Classes(LABELS, several=True))
    flat = known.ravel(), probabilities.ravel()  # each label of each text is a statement
    assert record["metrics"]["brier"]["value"] == pytest.approx(brier_score_loss(*flat), abs=1e-12)
    assert record["metrics"]["ece"]["value"] == pytest.approx(as_defined(flat[1], flat[0]), abs=1e-12)
    assert sum(one["count"] for one in record["classes"]["calibration"]) == 120
    assert record["metrics"]["macro_f1"]["value"] == pytest.approx(f1_score(known, told, average="macro"))
    assert record["metrics"]["label_accuracy"]["value"] == pytest.approx((known == told).all(1).mean())
    assert record["classes"]["confusion"] is None
    assert len(label_lines(record["classes"])) == 4


def test_a_label_that_nobody_has_or_gives_is_worth_nothing() -> None:
    record = classification_record(one_label([0, 0, 1], np.array([[0.6, 0.2, 0.2]] * 3)), Classes(LABELS))
    assert [row["f1"] for row in record["classes"]["rows"]] == pytest.approx([0.8, 0, 0])
    lines = label_lines(record["classes"])
    assert lines[2].split() == ["green", "1", "0.0%", "0.0%", "0.0%", "1", "0", "0"]
    assert record["metrics"]["ece"]["value"] == pytest.approx(2 / 3 - 0.6)
    assert record["classes"]["calibration"] == [{"count": 3, "probability": pytest.approx(0.6), "came_true": 2 / 3}]


def test_the_drawing_has_a_point_for_each_bin_and_older_records_have_none() -> None:
    draw = np.random.default_rng(2)
    found = one_label(draw.integers(0, 3, 90), draw.dirichlet((1, 1, 1), 90))
    classes = classification_record(found, Classes(LABELS))["classes"]
    assert reliability_chart(classes).count("<circle") == len(classes["calibration"])
    del classes["calibration"]
    assert reliability_chart(classes) == ""


class Parity(torch.nn.Module):
    """Says `green` of a text whose tokens add up to an even number, else `red`."""

    device = torch.device("cpu")

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        assert attention_mask.all()
        odd = float(input_ids.sum() % 2)
        return SimpleNamespace(logits=torch.tensor([[odd, 1 - odd, -9.0]]))


def test_texts_are_kept_by_their_words_with_both_labels() -> None:
    rows = []
    for lengths, labels in (([5, 3], [0, 1]), ([4], [2])):
        found = packed_row(lengths, (), len(lengths))
        alone = {**found.segment_fields, "atom": np.arange(len(lengths), dtype=np.int32)}
        rows.append(replace(found, segment_fields=alone, atom_fields={"label": np.array(labels, np.float32)}))
    ids = np.concatenate([one.token_fields["input_ids"] for one in rows])
    texts = [part.tolist() for part in np.split(ids, [5, 8])]
    store: Any = SimpleNamespace(num_rows=2, read_rows=lambda numbers: [rows[number] for number in numbers])
    model: Any = Parity()
    found = classify(model, store, Classes(LABELS), max_rows=9, decode=lambda ids: f"Text {ids}")
    kept = labelled_record(found, Classes(LABELS))
    assert kept["texts"] == [text_key(f"text {text}") for text in texts]
    assert kept["known"] == [[0], [1], [2]]
    assert kept["told"] == [[0 if sum(text) % 2 else 1] for text in texts]
    assert kept["brier"] == pytest.approx(((found.probabilities - found.known) ** 2).sum(1))
    assert len(classify(model, store, Classes(LABELS), max_rows=1, decode=str).texts) == 2


def test_a_text_is_the_same_for_tokenizers_that_drop_case_and_accents() -> None:
    assert text_key("Café, au Lait!") == text_key("cafe\u0301 , au lait !") == text_key("cafe au lait")
    assert text_key("cafe") != text_key("cafes")
    assert text_key("天气好") != text_key("天气坏")
