"""Sums become a loss by one law: each term over its own units, after everything was added up."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from fakes import FakeStore

from raysft.engine.step import assemble, divisors, vector
from raysft.objectives.base import Term, count_units
from raysft.objectives.objective import Loss, Objective
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


def test_units_of_rows() -> None:
    store = FakeStore([[4, 6], [5]])
    store.rows[0].segment_fields["atom"][:] = 0  # two segments of one atom
    terms = tuple(Term(unit, unit) for unit in ("target_token", "token", "segment", "atom"))
    targets = float(sum(row.token_fields["target"].sum() for row in store.rows))
    assert count_units(terms, store.rows) == {"target_token": targets, "token": 15, "segment": 3, "atom": 2}
    assert count_units(terms, []) == dict.fromkeys((term.name for term in terms), 0.0)


def test_ranks_are_assembled_units_once_and_sums_added() -> None:
    units = torch.tensor([104.0, 11.0], dtype=torch.float64)
    told = (([30, 4], [3, 4], 7), ([2, 1], [1, 1], 5))
    ranks = [
        vector(units, *(torch.tensor(some, dtype=torch.float64) for some in (sums, metrics)), n)
        for sums, metrics, n in told
    ]
    objective = Objective((NLL, KL), lambda view, batch: Loss({}), metrics=("accuracy",))
    found, tokens = assemble(np.stack([rank.numpy() for rank in ranks]), objective)
    sums = Sums({"nll": 32.0, "kl": 5.0}, {"nll": 104.0, "kl": 11.0}, {"accuracy": (4.0, 5.0)})
    assert found == reduced([sums], (NLL, KL))
    assert found.metrics == {"accuracy": 0.8}
    assert tokens == 12


def test_no_units_divide_by_infinity_and_nan_stays() -> None:
    """The probe's units are no number: its gradients must not be either."""
    found = divisors(torch.tensor([0.0, 2.0, math.nan]))
    assert found[:2].tolist() == [math.inf, 2.0]
    assert found[2].isnan()
