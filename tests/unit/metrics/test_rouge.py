"""Longest common subsequences against the table, skip-bigrams by Lin's own examples."""

from __future__ import annotations

import random
import time
from collections import Counter
from itertools import combinations

import pytest

from raysft.metrics import rouge
from raysft.metrics.base import Answer
from raysft.metrics.estimate import estimate
from raysft.metrics.rouge import ROUGE_S, longest_common_subsequence, skip_bigrams


def lcs(one: list[str], other: list[str]) -> int:
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_the_longest_common_subsequence_is_that_of_the_table() -> None:
    dice = random.Random(0)
    for _ in range(200):
        one, other = (dice.choices("abcde", k=dice.randint(0, 90)) for _ in range(2))
        assert longest_common_subsequence(one, other) == (lcs(one, other), len(one), len(other))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("police kill the gunman", 3 / 6),  # Lin 2004, section 5
        ("the gunman kill police", 1 / 6),
        ("the gunman police killed", 2 / 6),
        ("gunman the killed police", 0.0),
        ("police killed the gunman", 1.0),
    ],
)
def test_skip_bigrams_of_the_paper(said: str, expected: float) -> None:
    assert estimate(ROUGE_S, [Answer("q", said, "police killed the gunman")]).value == pytest.approx(expected)


def test_skip_bigrams_that_repeat_count_as_often_as_both_have_them() -> None:
    """a a a: 3 pairs; a a: 1."""
    assert estimate(ROUGE_S, [Answer("q", "a a a", "a a")]).value == pytest.approx(2 * 1 / (3 + 1))


def test_skip_bigrams_are_those_of_all_pairs_and_long_texts_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every pair, in tables of a few columns, too."""
    draw = random.Random(1)
    for cells in (1, 7, 10**6):
        monkeypatch.setattr(rouge, "_CELLS", cells)
        for _ in range(20):
            texts = [[draw.choice("abcdefg") for _ in range(draw.randrange(30))] for _ in range(2)]
            pairs = [Counter(combinations(text, 2)) for text in texts]
            sizes = [len(text) * (len(text) - 1) // 2 for text in texts]
            assert skip_bigrams(*texts) == ((pairs[0] & pairs[1]).total(), *sizes)
    monkeypatch.undo()
    long = [f"w{draw.randrange(500)}" for _ in range(20_000)]
    began = time.process_time()
    assert skip_bigrams(long, long)[0] == 20_000 * 19_999 // 2
    assert time.process_time() - began < 2
