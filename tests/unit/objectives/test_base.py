"""Units of rows, counted by hand."""

from __future__ import annotations

from fakes import FakeStore

from raysft.objectives.base import Term, count_units


def test_units_of_rows() -> None:
    store = FakeStore([[4, 6], [5]])
    store.rows[0].segment_fields["atom"][:] = 0  # two segments of one atom
    terms = tuple(Term(unit, unit) for unit in ("target_token", "preferred_token", "token", "segment", "atom"))
    targets = float(sum(row.token_fields["target"].sum() for row in store.rows))
    first = float(store.rows[0].token_fields["target"][:4].sum() + store.rows[1].token_fields["target"].sum())
    expected = {"target_token": targets, "preferred_token": first, "token": 15, "segment": 3, "atom": 2}
    assert count_units(terms, store.rows) == expected
    assert 0 < first < targets
    assert count_units(terms, []) == dict.fromkeys((term.name for term in terms), 0.0)
