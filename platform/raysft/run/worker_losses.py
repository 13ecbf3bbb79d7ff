"""Held-out losses before and after training as the training workers have measured them: no process holds the model.

At the first and the last step each worker computes its part, with its part of the model (train/session.py). What they
found stands in the run's metrics, which outlive an attempt, and that of the last step in the record of its commit,
too: so the losses are those of the weights that are exported (decision 040).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from raysft.data.store.parts import TokenStore
from raysft.errors import CheckpointError
from raysft.evaluate.evaluation import record_of
from raysft.evaluate.heldout import HeldOut, Targets, count_targets
from raysft.objectives.base import NLL
from raysft.recipe.evaluation_sets import evaluation_sets
from raysft.recipe.schema import Recipe
from raysft.train.commits.layout import Checkpoint, read_commits
from raysft.train.commits.lineage import lineage, read_attempts
from raysft.train.history.records import evaluated_sets, read_metrics


def targets_of(recipe: Recipe, stores: Mapping[str, str]) -> dict[str, Targets]:
    """{set: what its loss is a mean over}, by its store. Raises DataError for a set without a target token."""
    plans = evaluation_sets(recipe)
    return {
        name: count_targets(TokenStore.open(location), max_rows=plans[name].max_rows)
        for name, location in stores.items()
    }


def losses_before(run: str, recipe: Recipe, targets: Mapping[str, Targets]) -> dict[str, Any] | None:
    """The record of the untrained model, as evaluate/evaluation.py makes it; None: not all of it was measured.

    Losses over other rows, which an earlier form of the recipe asked for, are not.
    """
    lines = [line for line in read_metrics(run) if line["kind"] == "eval" and line["step"] == 0]
    return _record(recipe, evaluated_sets(lines[-1]), targets) if lines else None


def losses_after(run: str, recipe: Recipe, targets: Mapping[str, Targets]) -> dict[str, Any] | None:
    """Likewise of the model that the newest commit holds."""
    sets = measured_at_commit(run)
    return _record(recipe, sets, targets) if sets else None


def measured_at_commit(run: str) -> dict[str, Mapping[str, Any]]:
    """{set: its line (evaluated_sets)} of what was measured of the weights that the newest commit holds; empty:
    nothing was, or its record says otherwise."""
    commits = lineage(read_attempts(run), read_commits(run))
    last = commits[0].step if commits else 0
    lines = [line for line in read_metrics(run) if line["kind"] == "eval" and line["step"] == last > 0]
    if not lines:
        return {}
    committed: Any = None
    with suppress(OSError, ValueError, CheckpointError):  # whoever needs its weights says what is wrong
        committed = Checkpoint.open(run, commits[0]).record["facts"].get("measured")
    sets = evaluated_sets(lines[-1])
    said = {f"{name}/{NLL}": _likelihood(one) for name, one in sets.items()}
    if not isinstance(committed, dict) or any(committed.get(name) != loss for name, loss in said.items()):
        return {}
    return sets


def _likelihood(one: Mapping[str, Any]) -> float | None:
    """That of a set, a term or a metric of the objective, where it is a number."""
    found = {**one.get("metrics", {}), **one.get("terms", {})}.get(NLL)
    return found if isinstance(found, float) and math.isfinite(found) else None


def _record(recipe: Recipe, sets: Mapping[str, Any], targets: Mapping[str, Targets]) -> dict[str, Any] | None:
    plans, found = evaluation_sets(recipe), {}
    for name, wanted in targets.items():
        one = sets.get(name, {})
        loss, weight = _likelihood(one), one.get("target_tokens")
        if loss is None or not isinstance(weight, float) or not math.isclose(weight, wanted.weight, rel_tol=1e-6):
            return None
        found[name] = record_of(HeldOut(loss, wanted.tokens), (), plans[name])
    return found
