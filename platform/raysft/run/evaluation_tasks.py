"""An evaluation by tasks on the cluster: one, or several that share its rows and prompts."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from raysft.data.on_ray import Item, TaskResources, on_ray
from raysft.evaluate.evaluation import evaluation_of
from raysft.recipe.evaluation_sets import check_packages, evaluation_sets, evaluation_tasks
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.cluster import ClusterSection
from raysft.run.layout_choice import evaluation_gpus
from raysft.runtime.join import cluster_facts, run_task, worker_runtime

logger = logging.getLogger(__name__)

Task = Callable[..., dict[str, Any]]
"""(fields of a recipe, stores, share, *more) -> what evaluate_share() found of that share (remote_tasks.py)."""


def evaluate_by_tasks(recipe: Recipe, task: Task, stores: Mapping[str, str], *more: str) -> dict[str, Any]:
    """{set: record} of the sets with a store, by as many tasks as the recipe gives work to (evaluation_tasks).

    Raises what the task does, DataError, RecipeError.
    """
    plans = {name: evaluation_sets(recipe)[name] for name in stores}
    check_packages(plans.values())
    gpus = evaluation_gpus(recipe, cluster_facts()) if recipe.cluster.gpus_per_worker else 0
    fields, parts = recipe.model_dump(mode="json"), evaluation_tasks(recipe, max(1, gpus))
    if parts == 1:
        found_by_one = run_task(recipe.cluster, task, fields, dict(stores), (0, 1), *more, gpus=gpus)
        return _told(evaluation_of([found_by_one], plans))
    work = partial(_share, task=task, fields=fields, stores=dict(stores), parts=parts, more=more)
    sized = replace(worker_sized(recipe), gpus=gpus, at_once=max(1, recipe.cluster.workers // max(1, gpus)))
    found: dict[int, dict[str, Any]] = dict(on_ray(work, [{"part": part} for part in range(parts)], sized))
    return _told(evaluation_of([found[part] for part in range(parts)], plans))


def _told(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The same, once it is said which of its numbers are to be doubted."""
    for name, record in evaluation.items():
        for metric, estimate in record["metrics"].items():
            if "doubt" in estimate["details"]:
                logger.warning("%s/%s: %s", name, metric, estimate["details"]["doubt"])
    return evaluation


def _share(
    item: Item, *, task: Task, fields: dict[str, Any], stores: dict[str, str], parts: int, more: tuple[str, ...]
) -> tuple[int, dict[str, Any]]:
    """(part, what it found), in a task."""
    with leaving_no_model(bool(fields["cluster"]["gpus_per_worker"])):
        return item["part"], task(fields, stores, (item["part"], parts), *more)


def worker_sized(recipe: Recipe) -> TaskResources:
    """Tasks with the resources of the run's workers, of which as many work at a time."""
    wanted: ClusterSection = recipe.cluster
    return TaskResources(
        cpus=wanted.cpus_per_worker,
        gpus=wanted.gpus_per_worker,
        at_once=wanted.workers,
        environment=worker_runtime(wanted),
    )


@contextmanager
def leaving_no_model(has_gpu: bool) -> Iterator[None]:
    """Work with a model in a process of Ray Data, which stays for a while: its GPU is a worker's next."""
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        gc.collect()
        if has_gpu:
            torch.cuda.empty_cache()
