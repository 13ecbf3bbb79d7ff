"""The steps of a run on their own: evaluate, export, report. Each starts or joins Ray and ends what it started."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raysft import storage
from raysft.data.prepare.prepare import prepare as prepare_store
from raysft.errors import ModelError, UserError
from raysft.evaluate.scorers import check_metrics
from raysft.model.export_manifest import damaged_files
from raysft.observe.curves import loss_line
from raysft.observe.findings import finding_lines
from raysft.observe.goodput import terminal_lines
from raysft.recipe.evaluation_sets import evaluation_sets
from raysft.recipe.forgetting import forgetting_lines
from raysft.recipe.load import load_recipe
from raysft.recipe.objective_traits import embeds, head_of
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.schema import Recipe
from raysft.run import remote_tasks, summary
from raysft.run.evaluation_tasks import evaluate_by_tasks
from raysft.run.evaluations import take_answers
from raysft.run.export_tasks import export_by_tasks
from raysft.run.kept_benchmarks import kept_lines
from raysft.run.run_state import state_of
from raysft.run.rundir import check_same_recipe, claim, recipe_of, run_location
from raysft.runtime.join import cluster
from raysft.train.history.account import read_history

logger = logging.getLogger(__name__)


def evaluate(recipe: Recipe, model: str | None) -> dict[str, Any]:
    """Evaluate an exported model (default: the run's own) on the recipe's held-out data. Raises UserError."""
    if head_of(recipe) or embeds(recipe):
        raise UserError(
            "raysft evaluate measures the losses and answers of models that write",
            got=f"objective.kind: {recipe.objective.kind}",
            expected="an objective whose model has an LM head",
            fix="`raysft report` and the run's report.html have what was measured after training",
        )
    absolute = with_absolute_paths(recipe)
    export = storage.absolute(model) if model else storage.join(run_location(recipe), "export")
    if not storage.exists(export):
        raise UserError(
            f"there is no model to evaluate at {export}",
            got="no such directory",
            expected="an export directory",
            fix="check --model"
            if model
            else "run `raysft train` (or `raysft export`) first, or name one with --model",
        )
    if not evaluation_sets(recipe):
        raise UserError(
            "there is no held-out data to evaluate on",
            got="neither data.eval nor data.eval_fraction, no evaluate.sets",
            expected="one of them",
            fix="set data.eval to files, or data.eval_fraction as it was in training",
        )
    check_metrics(recipe)
    _check_export(export)
    with cluster():
        prepared = prepare_store(absolute)
        found = evaluate_by_tasks(absolute, remote_tasks.evaluate_exported, prepared.eval_stores, export)
    take_answers(found)
    return found


def _check_export(export: str) -> None:
    """Weights and tokenizer must be as they were exported; of other files it is said when they are not."""
    places = (export, export.rstrip("/").rpartition("/")[0])  # or its `merged/`
    damaged = [(place, name) for place in places for name in damaged_files(place)]
    vital = [name for _, name in damaged if name.endswith((".safetensors", "/tokenizer.json"))]
    if vital:
        raise ModelError(
            f"the export {export} is damaged",
            got=f"{', '.join(vital)}: not the bytes that were exported",
            expected="files with the checksums of export.json",
            fix="`raysft export RECIPE` writes it anew from the run's checkpoint",
        )
    for place, name in damaged:
        logger.warning("%s is not as it was exported", storage.join(place, name))


def export(recipe: Recipe) -> list[str]:
    """Export the newest checkpoint of the recipe's run. Returns the directories written."""
    absolute, run = with_absolute_paths(recipe), run_location(recipe)
    check_same_recipe(run, absolute)
    newest = remote_tasks.newest_checkpoint(run, is_verified=False)  # by the task
    with cluster():
        prepared = prepare_store(absolute)
        prints = claim(run, absolute, prepared.train_manifest["fingerprint"])
        card = summary.card_facts(newest.state, prepared, prints, None, None)
        return export_by_tasks(absolute, run, card, prepared.eval_stores)


def report(recipe_or_run: str, overrides: Sequence[str]) -> list[str]:
    """The loss of a run, what is wrong with it, where its time went and what its incidents cost, as lines; also of a
    run that is under way."""
    is_recipe = "://" not in recipe_or_run and Path(recipe_or_run).is_file()
    recipe = load_recipe(recipe_or_run, overrides) if is_recipe else None
    run = storage.absolute(recipe_or_run) if recipe is None else run_location(recipe)
    if not storage.exists(storage.join(run, "goodput")):
        raise UserError(
            f"there is no record of the time of the run {run}",
            got="no directory `goodput` in it" if storage.exists(run) else "no such directory",
            expected="a recipe whose run has begun, or a run's directory",
            fix="raysft train first, or check the path",
        )
    history = read_history(run)
    state = state_of(run, history.account)
    status = f"{state.status} {state.what}" if state.status == "finished" else state.status
    status += f": {state.what}" if state.status in ("stopped", "failed") else ""
    recipe = recipe or recipe_of(run)
    told = forgetting_lines(summary.forgetting(run, recipe)) if recipe else []
    told += kept_lines(run)
    told += finding_lines(*summary.diagnosis(run, recipe, history.metrics)) if recipe else []
    early = [f"ended early  {state.early}"] if state.early else []
    lines = [f"run {run} ({status})", *early, loss_line(history.metrics), *told]
    return [*lines, *terminal_lines(summary.time_facts(history.account))]
