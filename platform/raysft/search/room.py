"""How many trials the cluster holds at a time: by its nodes, or by what its autoscaler can bring."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

from raysft.recipe.facts import ClusterFacts
from raysft.recipe.resolve import check_fits
from raysft.recipe.schema import Recipe
from raysft.recipe.tune import TuneSection
from raysft.recipe.tune_executor import trials_at_a_time
from raysft.run.nodes import Groups, await_groups, replica_bundles, replicas
from raysft.runtime import demand
from raysft.runtime.demand import Answer, Demand
from raysft.runtime.join import cluster_facts

logger = logging.getLogger(__name__)

MOST_ASKED = 64
"""Trials for which nodes are asked where neither tune.concurrent nor tune.budget.trials says how many may run."""
ANSWER_S = 30.0
"""How long the autoscaler may think about what it can bring; it looks every 5 s."""


@dataclass(frozen=True)
class Room:
    """What a search stands on."""

    nodes: ClusterFacts
    """Those that were there when it began, one trial's at least."""
    trials: int
    """At a time."""
    grows: bool
    """Nodes come when trials wait for them, and go when none does."""


def await_room(recipe: Recipe, tune: TuneSection) -> Room:
    """Return when the cluster holds a trial. Raises ClusterError for what it can never hold, or does not in time.

    An autoscaler is asked for all the trials that may run at a time; how many of them it calls impossible tells how
    many it can bring. The trials themselves then ask for their nodes, so each goes when it is not needed any more.
    """
    if not demand.scales():
        nodes = cluster_facts()
        check_fits(recipe, nodes.nodes)
        return Room(nodes, room_for(recipe, nodes), grows=False)
    wanted = trials_at_a_time(tune, MOST_ASKED)
    bundles = replica_bundles(recipe) * replicas(recipe)[0]
    with Demand(bundles, least=1, most=wanted) as asked:
        await_groups(recipe, asked.look, Groups(len(bundles), 1, wanted), True, lambda: False)
        trials = trials_held(_answered(asked), room_for(recipe, cluster_facts()))
    logger.info("room         for %d trials at a time when the autoscaler has brought its nodes", trials)
    return Room(cluster_facts(), trials, grows=True)


def trials_held(answer: Answer, now: int) -> int:
    """Trials at a time, of those that were asked for (pure). now: by the nodes that are there."""
    return max(1, now if answer.beyond is None else answer.wanted - answer.beyond)


def _answered(asked: Demand) -> Answer:
    until = time.monotonic() + ANSWER_S
    while (answer := asked.look()).beyond is None and time.monotonic() < until:
        time.sleep(0.5)
    return answer


def room_for(recipe: Recipe, nodes: ClusterFacts) -> int:
    """Trials that the cluster holds at a time."""
    wanted = recipe.cluster
    workers = 0
    for node in nodes.nodes:
        by_gpu = node.gpus // wanted.gpus_per_worker if wanted.gpus_per_worker else math.inf
        workers += int(min(node.cpus // wanted.cpus_per_worker, by_gpu))
    return max(1, workers // wanted.workers)
