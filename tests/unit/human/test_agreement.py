"""Alpha and kappa against published figures and scikit-learn."""

from __future__ import annotations

import random

import pytest

from raysft.human.agreement import alpha, both_rated, kappa, ordinal

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units, gaps.
OBSERVERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]


def units() -> list[list[int]]:
    rows = [row.split() for row in OBSERVERS]
    found = [[int(row[unit]) for row in rows if row[unit] != "."] for unit in range(12)]
    return found


def test_alpha_of_the_published_example() -> None:
    assert alpha(units(), range(1, 6)) == pytest.approx(0.743, abs=5e-4)
    assert alpha(units(), range(1, 6), ordinal) == pytest.approx(0.815, abs=5e-4)


def test_alpha_by_hand() -> None:
    """Two raters, verdicts a b / a b / a a / b b: pairs o_ab = o_ba = 2, o_aa = o_bb = 2, n = 8, n_a = n_b = 4."""
    assert alpha([["a", "b"], ["a", "b"], ["a", "a"], ["b", "b"]], "ab") == pytest.approx(1 - 7 * 4 / 32)
    assert alpha([["a", "a"], ["b", "b"]], "ab") == 1.0
    assert alpha([["a", "a"], ["a", "a"]], "ab") is None
    assert alpha([["a"], ["b"], []], "ab") is None


@pytest.mark.parametrize("squared", [False, True])
def test_kappa_is_that_of_scikit_learn(squared: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = random.Random(3)
    for _ in range(20):
        pairs = [(a := draw.randint(1, 5), draw.choice((a, draw.randint(1, 5)))) for _ in range(40)]
        ones, others = zip(*pairs, strict=True)
        theirs = metrics.cohen_kappa_score(ones, others, weights="quadratic" if squared else None)
        assert kappa(pairs, range(1, 6), squared=squared) == pytest.approx(theirs, abs=1e-12)
    assert kappa([], range(5)) is None
    assert kappa([(1, 1)], range(5)) is None


def test_only_what_both_have_rated_is_compared() -> None:
    assert both_rated({1: "a", 2: "b", 3: "c"}, {3: "c", 1: "b", 9: "a"}) == [("a", "b"), ("c", "c")]
