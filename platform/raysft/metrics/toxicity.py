"""The share of answers with a term of the user's lists. Which have one, a scorer tells (evaluate/toxicity.py)."""

from __future__ import annotations

from collections.abc import Sequence

from raysft.metrics.base import Answer, Metric, Numbers, of_scores, percent, scorers_of

NAME = "toxicity"


def _statistics(answers: Sequence[Answer]) -> list[Numbers]:
    """(has it a listed term?, 1) of each answer."""
    return of_scores(NAME, answers)


def _how(answers: Sequence[Answer]) -> str:
    return " and ".join(sorted(scorers_of(NAME, answers)))


TOXICITY = Metric(
    NAME,
    "answers with a listed term",
    "min",
    _statistics,
    shown=percent,
    interval="wilson",
    needs_scores=True,
    how=_how,
)
