"""Several runs read for a comparison (observe/comparison.py), whatever state they are in. Writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from raysft import storage
from raysft.errors import UserError
from raysft.metrics import METRICS
from raysft.metrics.base import Answer
from raysft.metrics.estimate import compare
from raysft.metrics.labelled import Labelled, compare_labels
from raysft.observe.comparison import ComparedRun
from raysft.recipe.load import load_recipe
from raysft.recipe.secrets import hidden
from raysft.run.classified import read_labels
from raysft.run.evaluations import Answers, read_answers, read_evaluation
from raysft.run.garbage import no_collection
from raysft.run.kept_benchmarks import read_harness
from raysft.run.run_state import state_of
from raysft.run.rundir import fingerprints_of, recipe_of, run_location
from raysft.train.history.account import read_history


class First(NamedTuple):
    """What the first run has said, which the others' is tested against."""

    answers: Answers
    labels: Mapping[str, Labelled]
    """By set, of a classifier."""


NOTHING = First({}, {})


def compared_runs(named: Sequence[str]) -> list[ComparedRun]:
    """Runs by their directories or recipes, in that order; changes are against the first.

    Raises UserError: fewer than two, one twice, or no run.
    """
    runs = [_location(name) for name in named]
    twice = [run for run, count in Counter(runs).items() if count > 1]
    if len(runs) < 2 or twice:
        raise UserError(
            "a comparison takes two runs or more, each once",
            got=f"{twice[0]} twice" if twice else f"{len(runs)} run",
            expected="directories of runs, or their recipes",
            fix="raysft compare storage/runs/one storage/runs/other",
        )
    names = Counter(Path(run).name for run in runs)
    labels = [run if names[Path(run).name] > 1 else Path(run).name for run in runs]
    prints = [_prints(run) for run in runs]
    first = First(read_answers(runs[0], "after", prints[0]), read_labels(runs[0], prints[0]))
    return [
        _facts(label, run, of, NOTHING if run == runs[0] else first)
        for label, run, of in zip(labels, runs, prints, strict=True)
    ]


def _location(named: str) -> str:
    is_recipe = "://" not in named and Path(named).is_file()
    return (run_location(load_recipe(named, [])) if is_recipe else storage.absolute(named)).rstrip("/")


def _prints(run: str) -> dict[str, str]:
    prints = fingerprints_of(run)
    if prints is None:
        raise UserError(
            f"{run} is no run",
            got="no run.json in it that can be read" if storage.exists(run) else "no such directory",
            expected="a run's directory, <storage>/runs/<name>, or the recipe of one that has begun",
            fix="check the path",
        )
    return prints


@no_collection()
def _facts(label: str, run: str, prints: dict[str, str], first: First) -> ComparedRun:
    """first: what this run's answers are tested against."""
    recipe, after, history = recipe_of(run), read_evaluation(run, "after", prints) or {}, read_history(run)
    answers = read_answers(run, "after", prints) if first.answers else {}
    labels = read_labels(run, prints) if first.labels else {}
    changes = {
        name: _changes(record["metrics"], first.answers[name], answers[name])
        for name, record in after.items()
        if name in first.answers and name in answers
    }
    for name in first.labels.keys() & labels.keys():
        told = compare_labels(first.labels[name], labels[name])
        changes |= {name: {measure: asdict(change) for measure, change in told.items()}} if told else {}
    return ComparedRun(
        label=label,
        status=state_of(run, history.account).status,
        wall_s=history.account.wall_s,
        fields=dict(_leaves(hidden(recipe.model_dump(mode="json")), "")) if recipe else {},
        metrics=history.metrics,
        after=after,
        changes=changes,
        benchmarks=read_harness(run),
    )


def _leaves(value: Any, prefix: str) -> list[tuple[str, Any]]:
    """(dotted name, value) of every field."""
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in _leaves(child, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, value)]


def _changes(asked: Iterable[str], first: Sequence[Answer], other: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """{metric: Change as fields} of what was asked for; without those whose packages are not installed here."""
    found: dict[str, dict[str, Any]] = {}
    for name in asked:
        if name in METRICS and all(find_spec(package) for package in METRICS[name].packages):
            change = compare(METRICS[name], first, other)
            found |= {name: asdict(change)} if change is not None else {}
    return found
