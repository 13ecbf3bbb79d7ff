"""Labels against scikit-learn."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from raysft.metrics.base import Answer
from raysft.metrics.estimate import compare, estimate
from raysft.metrics.labels import LABEL_ACCURACY, MACRO_F1, MOST, NONE, named_labels


@pytest.mark.parametrize("labels", [("positive", "negative", "neutral"), ("正面", "负面"), ("1", "2", "3", "4")])
def test_scores_are_those_of_scikit_learn(labels: tuple[str, ...]) -> None:
    dice = random.Random(0)
    right = dice.choices(labels, weights=range(1, len(labels) + 1), k=200)
    named = [label if dice.random() < 0.6 else dice.choice([*labels, NONE]) for label in right]
    forms = ("{}", " {}.", "“{}”", "{}!", "({})")
    texts = [dice.choice(forms).format(label) if label != NONE else "???" for label in named]
    answers = [Answer("q", said, wanted) for said, wanted in zip(texts, right, strict=True)]
    assert [pair[1] for pair in named_labels(answers)] == named
    accuracy, f1 = estimate(LABEL_ACCURACY, answers), estimate(MACRO_F1, answers)
    assert accuracy.value == pytest.approx(accuracy_score(right, named))
    assert f1.value == pytest.approx(f1_score(right, named, labels=labels, average="macro", zero_division=0))
    told = accuracy.details["confusion"]
    everything = [*labels, NONE]
    expected = confusion_matrix(right, named, labels=everything)[: len(labels)].tolist()
    assert [[told[one].get(other, 0) for other in everything] for one in labels] == expected
    each = precision_recall_fscore_support(right, named, labels=sorted(labels), zero_division=0)
    for label, *values in zip(sorted(labels), *each, strict=True):
        row = f1.details["labels"][label]
        assert [row[name] for name in ("precision", "recall", "f1", "count")] == pytest.approx(values)
    found = compare(MACRO_F1, answers, [Answer("q", a.reference, a.reference) for a in answers])
    assert found is not None
    assert found.p < 0.001


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("Very positive", "very positive"),
        ("I think it is very positive!", "very positive"),
        ("The label: POSITIVE", "positive"),
        ("positive or negative", NONE),
        ("positively", NONE),
        ("", NONE),
    ],
)
def test_the_only_label_that_stands_in_an_answer_is_named(said: str, named: str) -> None:
    labels = ("positive", "negative", "very positive")
    answers = [Answer("q", label, label) for label in labels]
    assert named_labels([*answers, Answer("q", said, "positive")])[-1] == ("positive", named)


def test_a_set_that_is_none_of_labels_is_told_and_costs_little() -> None:
    answers = [Answer("q", f"answer {number}", f"answer {number}") for number in range(3 * MOST)]
    found = estimate(MACRO_F1, answers)
    assert found.how == f"{3 * MOST} labels, of which the {MOST} most frequent are told apart"
    assert estimate(LABEL_ACCURACY, answers).value == pytest.approx(1 / 3)


@pytest.mark.shared
def test_real_calls_of_functions_are_scored_as_by_scikit_learn(shared_data: Path) -> None:
    """Which function is called: the name is the label, the answer the call, now and then another one."""
    chats = json.loads((shared_data / "glaive_toolcall_en_demo.json").read_text(encoding="utf-8"))
    calls = [turn["value"] for chat in chats for turn in chat["conversations"] if turn["from"] == "function_call"][
        :200
    ]
    right = [str(json.loads(call)["name"]).replace("_", " ") for call in calls]
    dice = random.Random(1)
    said = [call if dice.random() < 0.7 else dice.choice(calls) for call in calls]
    answers = [Answer("q", text, wanted) for text, wanted in zip(said, right, strict=True)]
    named = [pair[1] for pair in named_labels(answers)]
    assert len(calls) == 200
    assert sum(name == NONE for name in named) < 20
    found = estimate(MACRO_F1, answers)
    labels = sorted(set(right))
    expected = f1_score(right, named, labels=labels, average="macro", zero_division=0)
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert estimate(LABEL_ACCURACY, answers).value == pytest.approx(accuracy_score(right, named), abs=1e-9)
    each = precision_recall_fscore_support(right, named, labels=labels, zero_division=0)
    for label, *values in zip(labels, *each, strict=True):
        row = found.details["labels"][label]
        assert [row[name] for name in ("precision", "recall", "f1", "count")] == pytest.approx(values, abs=1e-9)
