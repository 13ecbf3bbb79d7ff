"""What a model can do less well after its training, on the sets that a recipe guards. Pure.

Losing is what the field measures forgetting by: the value before training minus the value after it, towards worse
(Lopez-Paz and Ranzato 2017, backward transfer, for a single task).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import normpath
from typing import Any

from raysft.errors import RecipeError
from raysft.recipe.evaluation_sets import measured_in_training
from raysft.recipe.measures import MEASURES, changed, shown, title_of
from raysft.recipe.schema import Recipe

LIKELIHOOD = "nll"
"""The measure of rows that is the loss of texts, whatever the objective adds to it."""


@dataclass(frozen=True)
class Forgotten:
    """One measure of a guarded set."""

    set: str
    measure: str
    title: str
    before: str
    after: str
    lost: float
    """How much worse it became: over 0 where something was forgotten, under 0 where the model improved."""
    change: str
    """After minus before with its interval and p, as tables write it; empty: not tested."""

    @property
    def text(self) -> str:
        """`+0.1234`: lost; `-0.0100`: gained."""
        return ("-" if self.lost < 0 else "+") + MEASURES[self.measure].shown(abs(self.lost))


def guards(recipe: Recipe) -> tuple[str, ...]:
    """The sets that tell what is forgotten."""
    return tuple(name for name, one in recipe.evaluate.sets.items() if one.guard)


def guarded_losses(recipe: Recipe) -> tuple[str, ...]:
    """SET/MEASURE, in nats per target token, of each guarded set whose loss is measured in training."""
    measured = measured_in_training(recipe)
    return tuple(full for name in guards(recipe) if (full := f"{name}/{LIKELIHOOD}") in measured)


def _meet(one: str, other: str) -> bool:
    """Is it the same file, in another spelling too, or one of the other's pattern?"""
    one, other = normpath(one), normpath(other)
    return fnmatchcase(one, other) or fnmatchcase(other, one) or one == other


def check_forgetting(recipe: Recipe) -> None:
    """Can guards tell what is forgotten, and the run be ended by it, where it is to be? Raises RecipeError."""
    section = recipe.evaluate
    trained = {path for source in recipe.data.sources for path in source.path}
    for name in guards(recipe):
        same = [path for path in section.sets[name].data or () if any(_meet(path, other) for other in trained)]
        if same:
            raise RecipeError(
                "what is trained on tells nothing of what is forgotten",
                got=f"evaluate.sets.{name}: guard: true, and {same[0]} in data.train",
                expected="text of what the model can do already, and is not trained on",
                fix="name other files, or leave guard out",
            )
    if section.stop_at_forgetting_nats is None:
        return
    wrong = {
        "no guarded set with a loss": not any("loss" in section.sets[name].metrics for name in guards(recipe)),
        "evaluate.every_steps: null": section.every_steps is None,
        f"objective.kind: {recipe.objective.kind}, which measures no likelihood of targets": not guarded_losses(
            recipe
        ),
    }
    got = next((what for what, is_wrong in wrong.items() if is_wrong), None)
    if got is not None:
        raise RecipeError(
            "the run cannot be ended by what it forgets: that is not measured while it trains",
            got=f"evaluate.stop_at_forgetting_nats: {section.stop_at_forgetting_nats:g}, {got}",
            expected="evaluate.every_steps, a set with guard: true and loss among its metrics, and an objective that "
            "measures nll",
            fix="set evaluate.every_steps: 100 and evaluate.sets.NAME.guard: true, or remove "
            "evaluate.stop_at_forgetting_nats",
        )


def forgotten(guarded: Iterable[str], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Forgotten]:
    """Every measure with a better way of each guarded set that was measured twice. Perplexity is the loss again.

    before, after: {set: its record}, as evaluate/evaluation.py makes them.
    """
    found = []
    for name in guarded:
        first, last = (one.get(name, {}) for one in (before, after))
        for measure, traits in MEASURES.items():
            was, now = (one.get("metrics", {}).get(measure) for one in (first, last))
            if traits.better is None or measure == "perplexity" or was is None or now is None:
                continue
            gap = now["value"] - was["value"]
            found.append(
                Forgotten(
                    set=name,
                    measure=measure,
                    title=title_of(name, measure, bool(last.get("of_pairs"))),
                    before=shown(measure, was),
                    after=shown(measure, now),
                    lost=gap if traits.better == "min" else -gap,
                    change=changed(measure, last.get("changes", {}).get(measure)),
                )
            )
    return found


def forgetting_lines(rows: Iterable[Forgotten]) -> list[str]:
    """For a terminal, without intervals: `forgetting   general: loss +0.1234 (2.1000 before, 2.2234 after)`."""
    return [
        f"forgetting   {row.title} {row.text} ({_value(row.before)} before, {_value(row.after)} after)"
        for row in rows
    ]


def _value(text: str) -> str:
    """A value without its interval."""
    return text.partition(" (")[0]
