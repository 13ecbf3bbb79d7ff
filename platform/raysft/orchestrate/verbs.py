"""The steps of a run on their own: prepare, evaluate, export. Each starts or joins Ray and ends what it started."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from raysft import storage
from raysft.data.inspect import certificate
from raysft.data.prepare import Prepared
from raysft.data.prepare import prepare as prepare_store
from raysft.errors import UserError
from raysft.orchestrate import summary, tasks
from raysft.orchestrate.cluster import cluster, run_task
from raysft.orchestrate.progress import PrepareProgress
from raysft.orchestrate.rundir import check_recipe, run_location
from raysft.recipe.fingerprint import fingerprints
from raysft.recipe.load import with_absolute_paths
from raysft.recipe.schema import Recipe

logger = logging.getLogger(__name__)


def prepare_data(recipe: Recipe) -> Prepared:
    """Make the recipe's token stores, or find them; says what they hold."""
    storage.check_writable(storage.absolute(recipe.storage))
    with cluster(), PrepareProgress() as progress:
        prepared = prepare_store(with_absolute_paths(recipe), progress=progress)
    if prepared.train is None:
        logger.info("store        none: data.mode is `stream`; of the first records:")
        for line in certificate(prepared.train_manifest):
            logger.info("             %s", line)
    for location, manifest in ((prepared.train, prepared.train_manifest), (prepared.eval, prepared.eval_manifest)):
        if location is not None and manifest is not None:
            logger.info("store        %s", location)
            for line in certificate(manifest):
                logger.info("             %s", line)
    return prepared


def evaluate(recipe: Recipe, model: str | None) -> dict[str, Any]:
    """Evaluate an exported model (default: the run's own) on the recipe's held-out data."""
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
    if not (recipe.data.eval or recipe.data.eval_fraction):
        raise UserError(
            "there is no held-out data to evaluate on",
            got="neither data.eval nor data.eval_fraction",
            expected="one of them",
            fix="set data.eval to files, or data.eval_fraction as it was in training",
        )
    with cluster():
        prepared = prepare_store(absolute)
        assert prepared.eval is not None
        fields = absolute.model_dump(mode="json")
        return run_task(absolute.cluster, tasks.evaluate_exported, fields, prepared.eval, export)


def export(recipe: Recipe) -> list[str]:
    """Export the newest checkpoint of the recipe's run. Returns the directories written."""
    run, absolute = run_location(recipe), with_absolute_paths(recipe)
    check_recipe(run, recipe)
    tasks.newest_checkpoint(run)
    with cluster():
        prepared = prepare_store(absolute)
        prints = fingerprints(recipe, prepared.train_manifest["fingerprint"])
        card = summary.card_facts(run, prepared, prints, None, None)
        return run_task(absolute.cluster, tasks.export, absolute.model_dump(mode="json"), run, asdict(card))
