"""An export by tasks on the cluster: one, or several that share its files of weights before the last one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from raysft import storage
from raysft.data.on_ray import Item, on_ray
from raysft.model.card import CardFacts
from raysft.model.shape import read_shape
from raysft.planner.tasks import export_tasks
from raysft.recipe.schema import Recipe
from raysft.run import remote_tasks
from raysft.run.evaluation_tasks import worker_sized
from raysft.run.export_check import tell_check, what_training_says
from raysft.run.layout_choice import with_vocabulary
from raysft.runtime.join import run_task


def export_by_tasks(recipe: Recipe, run: str, card: CardFacts, eval_stores: Mapping[str, str]) -> list[str]:
    """Export the newest checkpoint of a run, by as many tasks as it has files and workers. Returns the directories.

    Its loss is compared with that of the training, where that was measured: a line is logged. Raises what
    export_run() does.
    """
    fields, told = recipe.model_dump(mode="json"), asdict(card)
    parts = export_tasks(recipe, read_shape(with_vocabulary(recipe)))
    written: dict[str, dict[str, Any]] = {}
    if parts > 1:
        work = partial(_share, fields=fields, run=run, card=told, parts=parts)
        for found in on_ray(work, [{"part": part} for part in range(parts)], worker_sized(recipe)):
            written |= found
    asked = what_training_says(run, recipe, eval_stores)
    directories = run_task(recipe.cluster, remote_tasks.export, fields, run, told, written, asked)
    tell_check(storage.join(run, "export"))
    return directories


def _share(
    item: Item, *, fields: dict[str, Any], run: str, card: Mapping[str, Any], parts: int
) -> dict[str, dict[str, Any]]:
    """A share of the files, in a task."""
    return remote_tasks.export_files(fields, run, dict(card), (item["part"], parts))
