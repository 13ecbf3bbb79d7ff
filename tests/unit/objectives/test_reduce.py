"""Sums become a loss by one law: each term over its own units, after everything was added up."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from raysft.objectives.base import Term
from raysft.objectives.reduce import Sums, reduced

NLL, KL = Term("nll", "target_token"), Term("kl", "segment", 0.5)
PARTS = [
    Sums({"nll": 30.0, "kl": 4.0}, {"nll": 100.0, "kl": 10.0}, {"accuracy": (3.0, 4.0)}),
    Sums({"nll": 2.0, "kl": 1.0}, {"nll": 4.0, "kl": 1.0}, {"accuracy": (0.0, 1.0)}),
]


def test_each_term_is_divided_by_its_own_units() -> None:
    found = reduced(PARTS, (NLL, KL))
    nll, kl = Fraction(32, 104), Fraction(5, 11)
    assert found.terms == pytest.approx({"nll": float(nll), "kl": float(kl)}, rel=1e-15)
    assert found.loss == pytest.approx(float(nll + kl / 2), rel=1e-15)
    assert found.metrics == {"accuracy": 0.6}
    assert (found.units, found.target_tokens) == ({"nll": 104.0, "kl": 11.0}, 104.0)
    assert found.loss != pytest.approx(37 / 115)  # the sum of all terms over the sum of all units: what it was


def test_the_order_and_number_of_parts_do_not_matter() -> None:
    whole = Sums({"nll": 32.0, "kl": 5.0}, {"nll": 104.0, "kl": 11.0}, {"accuracy": (3.0, 5.0)})
    assert reduced(PARTS, (NLL, KL)) == reduced(PARTS[::-1], (NLL, KL)) == reduced([whole], (NLL, KL))


def test_a_term_without_units_adds_nothing_and_no_term_is_no_number() -> None:
    one = reduced([Sums({"nll": 3.0, "kl": 0.0}, {"nll": 2.0, "kl": 0.0})], (NLL, KL))
    assert (one.loss, one.terms) == (1.5, {"nll": 1.5})
    assert math.isnan(reduced([], (NLL, KL)).loss)
    poisoned = reduced([Sums({"nll": math.nan, "kl": 1.0}, {"nll": 2.0, "kl": 1.0})], (NLL, KL))
    assert math.isnan(poisoned.loss)


def test_target_tokens_are_those_of_a_term_that_is_a_mean_over_them() -> None:
    sums = Sums({"kl": 1.0}, {"kl": 2.0})
    assert reduced([sums], (KL,)).target_tokens == 0.0
