"""What an objective declares: the terms of its loss, what each is divided by, and how much of that rows hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from raysft.recipe.columns import UNKNOWN

Unit = Literal["target_token", "preferred_token", "token", "segment", "atom"]
"""What a term is a mean over: target tokens (weighted), those of the first sample of each group (the preferred answer
of a pair), tokens, samples, or groups of samples."""


NLL = "nll"
"""The term, or metric, that is minus the log-likelihood of a target token, in nats. Exp of its mean: perplexity."""


@dataclass(frozen=True)
class Term:
    """A summand of the loss: weight x (sum over a global step / units of that step)."""

    name: str
    unit: Unit
    weight: float = 1.0
    known: str = ""
    """A column of atoms, where its unit is a segment or an atom: those of which it is UNKNOWN are none; empty: all
    count."""


class RowFields(Protocol):
    """A packed row as the data layer reads it (data/store/parts.py)."""

    @property
    def token_fields(self) -> Mapping[str, np.ndarray]: ...
    @property
    def segment_fields(self) -> Mapping[str, np.ndarray]: ...
    @property
    def atom_fields(self) -> Mapping[str, np.ndarray]: ...


def count_units(terms: Sequence[Term], rows: Sequence[RowFields]) -> dict[str, float]:
    """{term: units of these rows}; 0.0 without rows."""
    return {term.name: sum((_units(term, row) for row in rows), 0.0) for term in terms}


def _units(term: Term, row: RowFields) -> float:
    match term.unit:
        case "target_token":
            return float(row.token_fields["target"].sum(dtype=np.float64))
        case "preferred_token":
            lengths, atoms = row.segment_fields["length"], row.segment_fields["atom"]
            is_first = np.diff(atoms, prepend=-1) != 0
            return float(row.token_fields["target"][np.repeat(is_first, lengths)].sum(dtype=np.float64))
        case "token":
            return float(row.segment_fields["length"].sum())
        case "segment":
            return float(_counted(term, row, row.segment_fields["atom"]))
        case "atom":
            return float(_counted(term, row, np.unique(row.segment_fields["atom"])))


def _counted(term: Term, row: RowFields, atoms: np.ndarray) -> int:
    """How many of these atoms of a row count."""
    if not term.known:
        return len(atoms)
    values = row.atom_fields[term.known].reshape(len(row.atom_fields[term.known]), -1)
    return int((values[atoms].min(1) != UNKNOWN).sum())
