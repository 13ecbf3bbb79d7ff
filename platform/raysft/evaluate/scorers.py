"""What gives answers the scores that texts alone do not have: made once in each task, of what a recipe says.

A scorer is for one metric that needs scores (metrics/base.py). SCORERS is the one table of them; what is wrong with a
recipe's is told before anything starts (check_metrics).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from raysft.evaluate.bertscore import BertScorer, check_encoder_at
from raysft.evaluate.code_tests import CodeTests
from raysft.evaluate.toxicity import TermScorer, check_lists
from raysft.metrics.base import Answer, Score
from raysft.recipe.evaluation_sets import check_packages, evaluation_sets
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.evaluate import EvaluateSection
from raysft.sandbox.probe import check_sandbox


class Scorer(Protocol):
    """Scores answers, each by itself: the same whatever answers stand beside it, and in every task."""

    def score(self, answers: Sequence[Answer], references: Sequence[str]) -> Sequence[Score]:
        """A score each. references: those of the whole set, of which a task has a share of the answers."""
        ...


NO_SCORERS: Mapping[str, Scorer] = {}


@dataclass(frozen=True)
class ScorerKind:
    """How a metric's scorer is made."""

    make: Callable[[EvaluateSection], Scorer]
    check: Callable[[EvaluateSection], None]
    """What can be refused without making one. Raises UserError."""
    settings: Callable[[EvaluateSection], Any]
    """What a scorer depends on, as JSON: answers are scored anew when it changes."""


SCORERS: dict[str, ScorerKind] = {
    "bertscore": ScorerKind(
        make=lambda section: BertScorer.load(section.bertscore),
        check=lambda section: check_encoder_at(section.bertscore),
        settings=lambda section: section.bertscore.model_dump(mode="json"),
    ),
    "passes_tests": ScorerKind(
        make=lambda section: CodeTests.of(section.passes_tests),
        check=lambda section: check_sandbox(),
        settings=lambda section: section.passes_tests.model_dump(mode="json"),
    ),
    "toxicity": ScorerKind(
        make=lambda section: TermScorer(section.toxicity),
        check=lambda section: check_lists(section.toxicity),
        settings=lambda section: TermScorer(section.toxicity).by,
    ),
}
"""{metric: its scorer}."""


def make_scorers(section: EvaluateSection, metrics: Iterable[str]) -> dict[str, Scorer]:
    """{metric: its scorer} of those among the metrics that need scores. Raises UserError."""
    return {name: SCORERS[name].make(section) for name in dict.fromkeys(metrics) if name in SCORERS}


def scored(
    answers: Sequence[Answer], scorers: Mapping[str, Scorer], references: Sequence[str] | None = None
) -> list[Answer]:
    """The answers with a score by each scorer. references: see Scorer; None: those of these answers."""
    whole = [answer.reference for answer in answers] if references is None else references
    found = {name: scorer.score(answers, whole) for name, scorer in scorers.items()}
    return [
        replace(answer, scores={**answer.scores, **{name: scores[number] for name, scores in found.items()}})
        for number, answer in enumerate(answers)
    ]


def scorer_settings(recipe: Recipe) -> dict[str, Any]:
    """{metric: what its scorer depends on, as JSON} of the metrics of the recipe's sets."""
    asked = {metric for plan in evaluation_sets(recipe).values() for metric in plan.metrics}
    return {name: kind.settings(recipe.evaluate) for name, kind in SCORERS.items() if name in asked}


def check_metrics(recipe: Recipe) -> None:
    """Is here what the metrics of the recipe's sets are computed and scored with? Raises UserError."""
    check_packages(evaluation_sets(recipe).values())
    for name in {metric for plan in evaluation_sets(recipe).values() for metric in plan.metrics if metric in SCORERS}:
        SCORERS[name].check(recipe.evaluate)
