"""How much answers repeat each other, and themselves; how long they are. They need no reference."""

from __future__ import annotations

from collections.abc import Sequence

from raysft.metrics.base import Answer, Metric, Numbers, mean, percent
from raysft.metrics.tokens import words

REPEATED_WORDS = 4
"""Length of the sequences that a text repeats or not."""


def _n_grams(text: str, length: int) -> list[tuple[str, ...]]:
    found = words(text, latin=False)
    return [tuple(found[place : place + length]) for place in range(len(found) - length + 1)]


def _distinct(length: int) -> Metric:
    """Different n-grams of all answers together / their n-grams (Li et al. 2016)."""

    def statistics(answers: Sequence[Answer]) -> list[Numbers]:
        seen: set[tuple[str, ...]] = set()
        found: list[Numbers] = []
        for answer in answers:
            grams, before = _n_grams(answer.text, length), len(seen)
            seen.update(grams)
            found.append((len(seen) - before, len(grams)))
        return found

    title = f"distinct {'words' if length == 1 else f'{length}-grams'}"
    return Metric(f"distinct_{length}", title, "max", statistics, shown=percent, interval="none")


def repeated(answer: Answer) -> float:
    """Share of an answer's 4-grams that stood in it before (Welleck et al. 2020, seq-rep-4)."""
    grams = _n_grams(answer.text, REPEATED_WORDS)
    return 1 - len({*grams}) / len(grams) if grams else 0.0


DISTINCT_1 = _distinct(1)
DISTINCT_2 = _distinct(2)
REPETITION = mean("repetition", "repeated 4-grams", repeated, better="min", shown=percent)
LENGTH = mean(
    "length", "characters of an answer", lambda a: float(len(a.text)), better=None, shown=lambda v: f"{v:,.1f}"
)
