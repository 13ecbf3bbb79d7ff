"""`raysft.tune`: a search, its trials and the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raysft.api.tables import frame, table_html
from raysft.observe.console import printable
from raysft.observe.tune_report import TrialFacts
from raysft.recipe.schema import Recipe
from raysft.search import command
from raysft.search.command import SearchResult

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Trial:
    """One trial of a search: a run with some fields of its own."""

    number: int
    point: dict[str, Any]
    """Dotted field -> the value that was tried."""
    values: dict[str, float]
    """Metric -> its last value; empty: it never reported."""
    state: str
    """running, finished, pruned or failed."""
    curve: tuple[tuple[int, float], ...]
    """(step, first metric)."""
    seconds: float
    core_s: float
    """CPU core seconds that it reserved."""
    gpu_s: float
    why: str
    """It failed or was passed over; empty: it did not."""


@dataclass(frozen=True)
class Study:
    """A search as far as it has come."""

    name: str
    metrics: dict[str, str]
    """Metric -> `min` or `max`."""
    trials: tuple[Trial, ...]
    """By number."""
    best_trials: tuple[Trial, ...]
    """The best trial, or with several metrics all that no other beats (the Pareto front)."""
    importances: dict[str, dict[str, float]]
    """Metric -> field -> share of its variance."""
    best_recipe: Recipe | None
    """The best trial's recipe, ready for raysft.train; None before a trial has finished."""
    location: str
    """The search's directory: study, best.yaml, report.html, charts/."""
    report: str
    """Location of its page."""
    result: SearchResult
    """Where it all comes from."""

    @property
    def best(self) -> Trial | None:
        """The best trial (of several metrics the first of the front); None before one has finished."""
        return self.best_trials[0] if self.best_trials else None

    def to_frame(self) -> pandas.DataFrame:
        """A row for each trial: number, state, fields, metrics, cost. Raises UserError without pandas."""
        return frame(
            [
                {"number": t.number, "state": t.state, **t.point, **t.values, "seconds": t.seconds, "why": t.why}
                for t in self.trials
            ]
        )

    def lines(self) -> list[str]:
        """What `raysft tune` prints: the trials, the best first, their cost, what mattered."""
        return self.result.lines()

    def __str__(self) -> str:
        return printable("\n".join(self.lines()))

    def _repr_html_(self) -> str:
        fields = list(dict.fromkeys(name for trial in self.trials for name in trial.point))
        rows = [
            (
                trial.number,
                trial.state,
                *(trial.point.get(name) for name in fields),
                *(trial.values.get(name) for name in self.metrics),
                round(trial.seconds, 1),
                trial.why,
            )
            for trial in self.trials
        ]
        best = next(
            (i for i, trial in enumerate(self.trials) if self.best and trial.number == self.best.number), None
        )
        head = ("trial", "state", *fields, *self.metrics, "seconds", "why")
        return table_html(f"search {self.name}", head, rows, best)


def tune(recipe: Recipe) -> Study:
    """See verbs.tune."""
    return study_of(command.search(recipe))


def study(recipe: Recipe) -> Study:
    """See verbs.study."""
    return study_of(command.report(recipe))


def study_of(found: SearchResult) -> Study:
    """A search's result in the API's words."""
    facts = found.facts
    trials = tuple(_trial(trial, tuple(facts.metrics)) for trial in facts.trials)
    by_number: Mapping[int, Trial] = {trial.number: trial for trial in trials}
    return Study(
        name=facts.name,
        metrics=dict(zip(facts.metrics, facts.modes, strict=True)),
        trials=trials,
        best_trials=tuple(by_number[number] for number in facts.best),
        importances={metric: dict(shares) for metric, shares in facts.importances.items()},
        best_recipe=found.best,
        location=found.directory,
        report=found.report,
        result=found,
    )


def _trial(facts: TrialFacts, metrics: tuple[str, ...]) -> Trial:
    return Trial(
        number=facts.number,
        point=dict(facts.point),
        values=dict(zip(metrics, facts.values, strict=False)),
        state=facts.state,
        curve=tuple(facts.curve),
        seconds=facts.seconds,
        core_s=facts.core_s,
        gpu_s=facts.gpu_s,
        why=facts.why,
    )
