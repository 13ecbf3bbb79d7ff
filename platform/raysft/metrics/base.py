"""What a metric of answers is: numbers of each answer that add up, and a value of their sums. Pure.

Everything else follows from the sums: the value over all answers, its interval, and whether two models differ
(metrics/estimate.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raysft.errors import UserError

Mode = Literal["min", "max"]
"""Which way is better."""

Numbers = Sequence[float]


@dataclass(frozen=True)
class Score:
    """What a scorer found of one answer, with what no text holds: a model, a list of words (evaluate/scorers.py)."""

    by: str
    """Which scorer, with a hash of its files: scores by different ones are not compared."""
    numbers: tuple[float, ...]
    """The answer's statistics for its metric."""


@dataclass(frozen=True)
class Answer:
    """One prompt, what the model said to it, and what was to be said. Texts without special tokens."""

    prompt: str
    text: str
    reference: str
    scores: Mapping[str, Score] = field(default_factory=dict, hash=False)
    """{metric: what its scorer found}."""

    def as_json(self) -> list[Any]:
        """What of() reads."""
        scores = {name: [score.by, list(score.numbers)] for name, score in self.scores.items()}
        return [self.prompt, self.text, self.reference, *([scores] if scores else [])]

    @staticmethod
    def of(fields: Sequence[Any]) -> Answer:
        """The answer that was written as these fields."""
        prompt, text, reference, *more = fields
        scores = more[0] if more else {}
        return Answer(prompt, text, reference, {name: Score(by, tuple(n)) for name, (by, n) in scores.items()})


@dataclass(frozen=True)
class Estimate:
    """A value, and how sure it is."""

    value: float
    count: int
    """What it was taken over: answers, or target tokens."""
    low: float | None = None
    """End of the 95% interval; None: none is known."""
    high: float | None = None
    how: str = ""
    """How it was computed, where that changes the number: a tokenizer, the signature of a library."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What stands behind it, as JSON: a confusion matrix. `doubt`: why the number may say nothing, as a warning."""


def ratio(totals: Numbers) -> float:
    """The first sum over the second; 0 of nothing."""
    return float(totals[0]) / float(totals[1]) if totals[1] else 0.0


def percent(value: float) -> str:
    """`91.0%`."""
    return f"{value:.1%}"


def _four_digits(value: float) -> str:
    return f"{value:.4f}"


@dataclass(frozen=True)
class Metric:
    """A number that answers have. Its functions are pure and raise nothing, whatever the texts are; those of one
    that needs scores raise UserError for answers without."""

    name: str
    """As recipes name it."""
    title: str
    """In a few words, for tables."""
    better: Mode | None
    """Which way is better; None: neither is by itself."""
    statistics: Callable[[Sequence[Answer]], Sequence[Numbers]]
    """Numbers of each answer, as many of each, which add up over answers."""
    value: Callable[[Numbers], float] = ratio
    """The value of sums of statistics."""
    shown: Callable[[float], str] = _four_digits
    """The value as tables write it."""
    interval: Literal["wilson", "bootstrap", "none"] = "bootstrap"
    """wilson: statistics are (is it right?, 1). none: a part of the answers does not stand for all of them."""
    packages: tuple[str, ...] = ()
    """Modules that it imports when it is computed, of the extra `metrics`."""
    needs_scores: bool = False
    """Are its numbers those that a scorer gave each answer (Answer.scores)?"""
    how: Callable[[Sequence[Answer]], str] = lambda answers: ""
    """See Estimate."""
    details: Callable[[Sequence[Answer]], dict[str, Any]] = lambda answers: {}
    """See Estimate."""


def share(name: str, title: str, is_counted: Callable[[Answer], bool], better: Mode = "max") -> Metric:
    """The share of answers of which something holds, 0 to 1, with Wilson's interval."""

    def statistics(answers: Sequence[Answer]) -> list[Numbers]:
        return [(float(is_counted(answer)), 1.0) for answer in answers]

    return Metric(name, title, better, statistics, shown=percent, interval="wilson")


def mean(
    name: str,
    title: str,
    score: Callable[[Answer], float],
    *,
    better: Mode | None = "max",
    shown: Callable[[float], str] = _four_digits,
    how: str = "",
) -> Metric:
    """The mean of what each answer scores, with an interval by bootstrap."""

    def statistics(answers: Sequence[Answer]) -> list[Numbers]:
        return [(score(answer), 1.0) for answer in answers]

    return Metric(name, title, better, statistics, shown=shown, how=lambda answers: how)


def of_scores(name: str, answers: Sequence[Answer]) -> list[Numbers]:
    """The statistics of a metric that needs scores: {answer: its numbers}. Raises UserError."""
    missing = sum(name not in answer.scores for answer in answers)
    if missing:
        raise UserError(
            f"{name} is no function of the texts alone",
            got=f"{missing} of {len(answers)} answers without a score for it",
            expected="answers that its scorer has read",
            fix="answers = scored(answers, make_scorers(...)), both in raysft.evaluate.scorers",
        )
    return [answer.scores[name].numbers for answer in answers]


def scorers_of(name: str, answers: Sequence[Answer]) -> set[str]:
    """Who scored these answers for a metric; `` stands for nobody."""
    return {answer.scores[name].by if name in answer.scores else "" for answer in answers}
