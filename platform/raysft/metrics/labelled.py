"""Two classifiers on the same texts: how far they are apart, and whether that is chance. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysft.metrics.classes import macro_f1
from raysft.metrics.estimate import Change, mcnemar, paired

Labelled = Mapping[str, Any]
"""What is kept of each text of a set, as JSON: `labels` of the recipe; lists by text: `texts` (a key of its words),
`known` and `told` (numbers of its labels, by the data and by the model), `brier` (its score)."""


def compare_labels(first: Labelled, second: Labelled) -> dict[str, Change]:
    """{measure: second minus first}; empty: the labels, the texts or what the data says of them are not the same, or
    there are fewer than two.

    p of accuracy is McNemar's exact one; of macro-F1 and the Brier score by paired randomisation; intervals by paired
    bootstrap over texts.
    """
    if first["labels"] != second["labels"]:
        return {}
    one, other = _by_text(first), _by_text(second)
    if len(one) < 2 or [(text, known) for text, known, *_ in one] != [(text, known) for text, known, *_ in other]:
        return {}
    known = _hot([text[1] for text in one], len(first["labels"]))
    told = [_hot([text[2] for text in side], len(first["labels"])) for side in (one, other)]
    right = [(known == said).all(1) for said in told]
    shares = [np.stack([ones, np.ones_like(ones)], 1).astype(np.float64) for ones in right]
    accuracy = paired(shares[0], shares[1], lambda sums: float(sums[0] / sums[1]))
    p = mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
    counts = [np.hstack([known & said, known, said]).astype(np.float64) for said in told]
    briers = [np.array([[text[3], 1.0] for text in side]) for side in (one, other)]
    return {
        "label_accuracy": replace(accuracy, p=p),
        "macro_f1": paired(counts[0], counts[1], macro_f1),
        "brier": paired(briers[0], briers[1], lambda sums: float(sums[0] / sums[1])),
    }


def _by_text(found: Labelled) -> list[tuple[str, list[int], list[int], float]]:
    """In an order that both have: rows of two tokenizers are packed in orders of their own."""
    return sorted(zip(found["texts"], found["known"], found["told"], found["brier"], strict=True))


def _hot(numbers: list[list[int]], labels: int) -> NDArray[np.bool_]:
    found = np.zeros((len(numbers), labels), dtype=bool)
    for row, own in zip(found, numbers, strict=True):
        row[own] = True
    return found
