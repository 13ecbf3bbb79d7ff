"""ROUGE (Lin 2004): F1 of words, pairs of words, the longest common subsequence, and pairs with gaps (skip-bigrams).

In Latin script words are rouge-score's, without stemming, and so are the numbers; in other scripts, where rouge-score
gives 0.0, they are those of metrics/tokens.py: Chinese by characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from raysft.metrics.base import Answer, Metric, mean
from raysft.metrics.tokens import is_latin, words

Overlap = Callable[[Sequence[str], Sequence[str]], tuple[int, int, int]]
"""(words of an answer, of its reference) -> what both have, what the answer has, what the reference has."""

_CELLS = 2_000_000
"""Kinds of pairs that are counted at a time."""

HOW = "words a-z and digits in small letters, no stemming; other scripts by letters and marks, Chinese by characters"


def n_grams(length: int) -> Overlap:
    """What two texts share of their sequences of so many words."""

    def overlap(said: Sequence[str], wanted: Sequence[str]) -> tuple[int, int, int]:
        grams = [
            Counter[Hashable](tuple(text[place : place + length]) for place in range(len(text) - length + 1))
            for text in (said, wanted)
        ]
        return (grams[0] & grams[1]).total(), grams[0].total(), grams[1].total()

    return overlap


def longest_common_subsequence(said: Sequence[str], wanted: Sequence[str]) -> tuple[int, int, int]:
    """By bits of whole numbers: a row of the table at a time (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(wanted):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(wanted)) - 1
    row = full
    for word in said:
        both = row & places.get(word, 0)
        row = (row + both | row - both) & full
    return len(wanted) - row.bit_count(), len(said), len(wanted)


def skip_bigrams(said: Sequence[str], wanted: Sequence[str]) -> tuple[int, int, int]:
    """Pairs of words in their order, whatever stands between them. Counted by words, not pair by pair: a text of
    20,000 words has 200 million."""
    numbers = {word: number for number, word in enumerate({*said} & {*wanted})}
    texts = [[numbers[word] for word in text if word in numbers] for text in (said, wanted)]
    both, width = 0, max(1, _CELLS // max(1, len(numbers)))
    for first in range(0, len(numbers), width):
        ends = range(first, min(first + width, len(numbers)))
        one, other = (_pairs_ending(text, ends, len(numbers)) for text in texts)
        both += int(np.minimum(one, other).sum())
    sizes = [len(text) * (len(text) - 1) // 2 for text in (said, wanted)]
    return both, sizes[0], sizes[1]


def _pairs_ending(text: Sequence[int], ends: range, count: int) -> NDArray[np.int64]:
    """[ends, count]: pairs whose second word is one of `ends`, by their first word."""
    found, before = np.zeros((len(ends), count), np.int64), np.zeros(count, np.int64)
    for word in text:
        if word in ends:
            found[word - ends.start] += before
        before[word] += 1
    return found


def _rouge(name: str, title: str, overlap: Overlap) -> Metric:
    def f1(answer: Answer) -> float:
        latin = is_latin(answer.reference)
        both, said, wanted = overlap(words(answer.text, latin), words(answer.reference, latin))
        return 2 * both / (said + wanted) if both else 0.0

    return mean(name, title, f1, how=HOW)


ROUGE_1 = _rouge("rouge_1", "ROUGE-1", n_grams(1))
ROUGE_2 = _rouge("rouge_2", "ROUGE-2", n_grams(2))
ROUGE_L = _rouge("rouge_l", "ROUGE-L", longest_common_subsequence)
ROUGE_S = _rouge("rouge_s", "ROUGE-S", skip_bigrams)
