"""Functional correctness: the share of answers whose code passes its tests: pass@1 (Chen et al. 2021), greedily.

The numbers of each answer are a scorer's, which runs the code (evaluate/code_tests.py); here they become the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raysft.metrics.base import Answer, Metric, Numbers, of_scores, percent, scorers_of

NAME = "passes_tests"

KINDS = ("passed", "wrong", "raised", "time", "ended", "files", "untested")
"""What tests can come to, as sandbox/jail.py says it."""


def numbers_of(kind: str) -> tuple[float, ...]:
    """The statistics of an answer: did it pass?, 1, and one of KINDS."""
    return (float(kind == "passed"), 1.0, *(float(kind == one) for one in KINDS))


def _statistics(answers: Sequence[Answer]) -> list[Numbers]:
    return of_scores(NAME, answers)


def _details(answers: Sequence[Answer]) -> dict[str, Any]:
    totals = [int(sum(column)) for column in zip(*_statistics(answers), strict=True)]
    counts = {kind: count for kind, count in zip(KINDS, totals[2:], strict=True) if count}
    found: dict[str, Any] = {"verdicts": counts}
    if untested := counts.get("untested"):
        found["doubt"] = (
            f"{untested} of {len(answers)} records have tests that are no Python, or use nothing of an answer: no "
            "answer can pass them"
        )
    return found


def _how(answers: Sequence[Answer]) -> str:
    counts = ", ".join(f"{kind} {count}" for kind, count in _details(answers)["verdicts"].items())
    return f"{' and '.join(sorted(scorers_of(NAME, answers)))}; {counts}"


PASSES_TESTS = Metric(
    *(NAME, "code that passes its tests", "max", _statistics),
    shown=percent,
    interval="wilson",
    needs_scores=True,
    how=_how,
    details=_details,
)
