"""Answers that are labels: which one each names, how many are right, macro-F1 and the confusion matrix.

The labels of a set are its references, without case and punctuation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from raysft.metrics.base import Answer, Metric, Numbers, percent
from raysft.metrics.tokens import is_latin, words

MOST = 100
"""Labels that are told apart: the most frequent ones. A set with more is none of labels."""
NONE = "(none)"
"""An answer that names no label, or several."""

Words = tuple[str, ...]


def named_labels(answers: Sequence[Answer]) -> list[tuple[str, str]]:
    """(right label, named label) of each answer: the label that it is, else the only one that stands in it."""
    latin = is_latin("".join(answer.reference for answer in answers))
    wanted = [_label(answer.reference, latin) for answer in answers]
    labels = [label for label, _ in Counter(wanted).most_common(MOST)]
    return [
        (_text(right, latin), _text(_named(_label(answer.text, latin), labels), latin))
        for right, answer in zip(wanted, answers, strict=True)
    ]


def _label(text: str, latin: bool) -> Words:
    found = tuple(words(text, latin))
    return found or tuple(text.split())


def _text(label: Words | None, latin: bool) -> str:
    return NONE if label is None else (" " if latin else "").join(label)


def _named(said: Words, labels: Sequence[Words]) -> Words | None:
    if said in labels:
        return said
    inside = [label for label in labels if label and _stands_in(label, said)]
    longest = [one for one in inside if not any(one != other and _stands_in(one, other) for other in inside)]
    return longest[0] if len(longest) == 1 else None


def _stands_in(part: Words, whole: Words) -> bool:
    return any(whole[place : place + len(part)] == part for place in range(len(whole) - len(part) + 1))


def _right(answers: Sequence[Answer]) -> list[Numbers]:
    return [(float(right == named), 1.0) for right, named in named_labels(answers)]


def _counts(answers: Sequence[Answer]) -> list[Numbers]:
    """Three numbers for each label: it is the right one, it is named, it is both."""
    pairs = named_labels(answers)
    labels = [label for label, _ in Counter(right for right, _ in pairs).most_common(MOST)]
    return [
        [float(holds) for label in labels for holds in (label == right, label == named, label == right == named)]
        for right, named in pairs
    ]


def _macro_f1(totals: Numbers) -> float:
    """The mean over the labels that are right somewhere."""
    labels = [totals[start : start + 3] for start in range(0, len(totals), 3)]
    scores = [2 * both / (right + named) for right, named, both in labels if right]
    return sum(scores) / len(scores) if scores else 0.0


def _confusion(answers: Sequence[Answer]) -> dict[str, Any]:
    """{"confusion": {right label: {named label: answers}}}."""
    found: dict[str, Counter[str]] = {}
    for right, named in named_labels(answers):
        found.setdefault(right, Counter())[named] += 1
    return {"confusion": {label: dict(counts.most_common()) for label, counts in sorted(found.items())[:MOST]}}


def _by_label(answers: Sequence[Answer]) -> dict[str, Any]:
    """{"labels": {label: its answers, precision, recall, F1}}."""
    pairs = named_labels(answers)
    right, named = (Counter(side) for side in zip(*pairs, strict=True))
    both = Counter(one for one, other in pairs if one == other)
    return {
        "labels": {
            label: {
                "count": right[label],
                "precision": both[label] / named[label] if named[label] else 0.0,
                "recall": both[label] / right[label],
                "f1": 2 * both[label] / (right[label] + named[label]),
            }
            for label in sorted(label for label, _ in right.most_common(MOST))
        }
    }


def _how(answers: Sequence[Answer]) -> str:
    count = len({right for right, _ in named_labels(answers)})
    return f"{count} labels" + (f", of which the {MOST} most frequent are told apart" if count > MOST else "")


LABEL_ACCURACY = Metric(
    "label_accuracy",
    "right labels",
    "max",
    _right,
    shown=percent,
    interval="wilson",
    how=_how,
    details=_confusion,
)
MACRO_F1 = Metric("macro_f1", "macro-F1 of labels", "max", _counts, _macro_f1, percent, how=_how, details=_by_label)
