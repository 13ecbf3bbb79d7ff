"""chrF: F2 of character n-grams (Popovic 2015), in every script alike; equal to sacrebleu's default to 1e-9."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from raysft.metrics.base import Answer, Metric, Numbers

ORDER = 6
"""Longest n-grams."""
BETA = 2
"""Recall counts as much as BETA^2 times precision."""
SIGNATURE = f"nrefs:1|case:mixed|eff:yes|nc:{ORDER}|nw:0|space:no"
"""As sacrebleu writes it."""


def _n_grams(text: str, length: int) -> Counter[str]:
    letters = "".join(text.split())
    return Counter(letters[place : place + length] for place in range(len(letters) - length + 1))


def _of_answer(answer: Answer) -> Numbers:
    """For n-grams of 1 to 6: in the answer where its reference has any, in the reference, in both."""
    found: list[float] = []
    for length in range(1, ORDER + 1):
        said, wanted = _n_grams(answer.text, length), _n_grams(answer.reference, length)
        found += [said.total() if wanted else 0, wanted.total(), (said & wanted).total()]
    return found


def _value(totals: Numbers) -> float:
    """Precision and recall are means over the lengths that both sides have n-grams of."""
    orders = [totals[start : start + 3] for start in range(0, len(totals), 3)]
    known = [(both / said, both / wanted) for said, wanted, both in orders if said and wanted]
    if not known:
        return 0.0
    precision, recall = (sum(values) / len(known) for values in zip(*known, strict=True))
    below = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / below if below else 0.0


def _statistics(answers: Sequence[Answer]) -> list[Numbers]:
    return [_of_answer(answer) for answer in answers]


CHRF = Metric("chrf", "chrF", "max", _statistics, _value, lambda value: f"{value:.2f}", how=lambda answers: SIGNATURE)
