"""Pods of a search: as many trials at a time as it may have, each pod with room for the greediest of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress

from raysft.errors import UserError
from raysft.kube.pods import WorkerPods, sized_pods
from raysft.kube.settings import KubernetesSettings
from raysft.recipe.change import change
from raysft.recipe.facts import ModelShape
from raysft.recipe.schema import Recipe
from raysft.recipe.tune import Choice, TuneSection
from raysft.recipe.tune_executor import trials_at_a_time


def trial_pods(recipe: Recipe, tune: TuneSection, shape: ModelShape, settings: KubernetesSettings) -> WorkerPods:
    """Whole trials dealt to pods of one node each; a trial that is larger than a node has pods of its own."""
    workers, most = recipe.cluster.workers, settings.workers_per_node
    pods_of_trial = math.ceil(workers / most)
    trials_in_pod = max(1, most // workers)
    held = settings.search_pods * trials_in_pod // pods_of_trial
    trials = max(1, trials_at_a_time(tune, held))
    if pods_of_trial > 1:
        pods, each = min(trials, max(1, held)) * pods_of_trial, math.ceil(workers / pods_of_trial)
    else:
        pods = math.ceil(min(trials, held) / trials_in_pod)
        each = math.ceil(min(trials, held) / pods) * workers
    sizes = [sized_pods(one, shape, pods, each) for one in (recipe, *_extremes(recipe, tune))]
    return max(sizes, key=lambda size: size.memory_bytes)


def _extremes(recipe: Recipe, tune: TuneSection) -> Iterator[Recipe]:
    """The recipe with each searched field at its largest, or at each of its values. What is no recipe is left out."""
    for name, values in tune.space.items():
        for value in values.values if isinstance(values, Choice) else (values.high,):
            with suppress(UserError):  # a value for other fields' values only: `when`
                yield change(recipe, {name: value})
