"""Nodes for a run: those that are there, else those that the cluster's autoscaler is asked for and brings.

Demand first, refusal second. Without an autoscaler a cluster is what it is: a run that it cannot hold is refused at
once, and only nodes that were lost are waited for.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Literal

from raysft.errors import ClusterError
from raysft.recipe.resolve import check_fits, fitting_workers, with_workers
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.cluster import ClusterSection
from raysft.runtime import demand
from raysft.runtime.broken_pod import Deleted, delete_pod_of
from raysft.runtime.demand import Answer, Bundle, Demand, Group
from raysft.runtime.join import cluster_facts

logger = logging.getLogger(__name__)

LOOK_S = 1.0


def replica_bundles(recipe: Recipe) -> Group:
    """What the workers of one replica reserve: what comes is of use in whole replicas only."""
    parallel = recipe.parallel
    return (bundle(recipe.cluster),) * (parallel.tensor * parallel.pipeline * parallel.sequence)


def bundle(wanted: ClusterSection) -> Bundle:
    """What one worker reserves."""
    return {"CPU": float(wanted.cpus_per_worker)} | (
        {"GPU": float(wanted.gpus_per_worker)} if wanted.gpus_per_worker else {}
    )


def replicas(recipe: Recipe) -> tuple[int, int]:
    """(fewest, most) replicas of a run."""
    split, wanted = len(replica_bundles(recipe)), recipe.cluster
    return max(1, math.ceil((wanted.min_workers or wanted.workers) / split)), wanted.workers // split


Step = Literal["go", "wait", "refuse", "late"]


def next_step(answer: Answer, least: int, waited_s: float, limit_s: float) -> Step:
    """What to do about a demand of which at least so many groups are needed (pure).

    Refused is what the autoscaler itself calls impossible, unless others use the cluster: theirs may end.
    """
    if answer.here >= least:
        return "go"
    if answer.beyond is not None and answer.wanted - answer.beyond < least and not answer.is_shared:
        return "refuse"
    return "late" if waited_s >= limit_s else "wait"


def await_first_nodes(recipe: Recipe) -> None:
    """Return when the cluster holds the fewest workers of a run. Raises ClusterError for what it can never hold."""
    nodes = cluster_facts().nodes
    if fitting_workers(recipe, nodes) is None:
        if not (recipe.cluster.wait_for_nodes_s and demand.scales()):
            check_fits(_smallest(recipe), nodes)
        await_workers(recipe, may_refuse=True)


def await_workers(
    recipe: Recipe,
    *,
    may_refuse: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    left_out: Sequence[str] = (),
) -> int:
    """How many workers there is room for, when that is enough; 0: stopped() became true first.

    may_refuse: as soon as the autoscaler says so; else it may change its mind, as after a loss of nodes. left_out:
    ids of nodes that are not to be used. Raises ClusterError after cluster.wait_for_nodes_s.
    """
    workers = fitting_workers(recipe, cluster_facts(left_out).nodes)
    if workers is not None:
        return workers
    least, most = replicas(recipe)
    bundles = replica_bundles(recipe)
    if demand.scales():
        groups = Groups(len(bundles), least, most, left_out=left_out)
        with Demand(bundles, least=least, most=most, left_out=left_out) as asked:
            here = await_groups(recipe, asked.look, groups, may_refuse, stopped)
    else:
        groups = Groups(len(bundles), least, most, is_asked=False, left_out=left_out)
        here = await_groups(recipe, partial(_alive, recipe, left_out), groups, False, stopped)
    return here * len(bundles)


@dataclass(frozen=True)
class Groups:
    """What is waited for: replicas, or trials."""

    workers: int
    """In each."""
    least: int
    most: int
    is_asked: bool = True
    """An autoscaler brings them; else nodes were lost, and may come back."""
    left_out: Sequence[str] = ()
    """Nodes that are not used any more."""

    def words(self) -> str:
        """How many workers."""
        few, many = self.least * self.workers, self.most * self.workers
        return f"{few}" if few == many else f"{few} to {many}"


def await_groups(
    recipe: Recipe, look: Callable[[], Answer], groups: Groups, may_refuse: bool, stopped: Callable[[], bool]
) -> int:
    """How many groups there is room for, at least groups.least; 0: stopped() became true first.

    Raises ClusterError after cluster.wait_for_nodes_s; at once, if it may, for what the autoscaler calls impossible.
    """
    began, limit_s, told = time.monotonic(), recipe.cluster.wait_for_nodes_s, -1
    while not stopped():
        answer, waited_s = look(), time.monotonic() - began
        step = next_step(answer, groups.least, waited_s, limit_s)
        if step == "go":
            return answer.here
        if step == "refuse" and may_refuse:
            raise _impossible(recipe, groups)
        if step == "late" or waited_s >= limit_s:
            raise _late(recipe, groups, answer)
        if answer.here != told:
            told = answer.here
            logger.warning("%s", _waiting(recipe, groups, answer))
        time.sleep(LOOK_S)
    return 0


def _alive(recipe: Recipe, left_out: Sequence[str]) -> Answer:
    """Replicas on the nodes that are there."""
    workers = fitting_workers(recipe, cluster_facts(left_out).nodes) or 0
    split = len(replica_bundles(recipe))
    return Answer(recipe.cluster.workers // split, workers // split)


class Growth:
    """What an elastic run asks for while it trains on fewer workers than it may have; given back with the block."""

    def __init__(self, recipe: Recipe, workers: int, left_out: Sequence[str] = ()) -> None:
        self._recipe, self._left_out = recipe, left_out
        self._missing = (recipe.cluster.workers - workers) // len(replica_bundles(recipe))
        self._stack = ExitStack()

    def ask(self) -> None:
        """Once the attempt has the nodes that are there: before, this would take them from it."""
        if self._missing > 0 and demand.scales():
            unit = replica_bundles(self._recipe)
            self._stack.enter_context(Demand(unit, least=1, most=self._missing, left_out=self._left_out))
        self._missing = 0

    def __enter__(self) -> Growth:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def _smallest(recipe: Recipe) -> Recipe:
    return with_workers(recipe, recipe.cluster.min_workers or recipe.cluster.workers)


def _waiting(recipe: Recipe, groups: Groups, answer: Answer) -> str:
    limit_s = recipe.cluster.wait_for_nodes_s
    patience = f"{limit_s / 60:.0f} min" if limit_s >= 120 else f"{limit_s:g} s"
    whom = "the autoscaler was asked for them" if groups.is_asked else "too few are left"
    came = f"; room for {answer.here * groups.workers} by now" if answer.here else ""
    return f"waiting up to {patience} for nodes that hold {groups.words()} workers of {_words(recipe)}: {whom}{came}"


def _words(recipe: Recipe) -> str:
    wanted = recipe.cluster
    return f"{wanted.cpus_per_worker} CPUs + {wanted.gpus_per_worker} GPUs"


def _impossible(recipe: Recipe, groups: Groups) -> ClusterError:
    return ClusterError(
        "the cluster can never hold this run, even with all the nodes that its autoscaler may start",
        got=f"the autoscaler calls it impossible; {len(cluster_facts().nodes)} node(s) by now",
        expected=f"{groups.least * groups.workers} workers x ({_words(recipe)})",
        fix="raise the autoscaler's maximum (max_workers; maxReplicas of a RayCluster), give it nodes that are large "
        "enough for a worker, or lower cluster.workers, cluster.min_workers or cluster.cpus_per_worker",
    )


def _late(recipe: Recipe, groups: Groups, answer: Answer) -> ClusterError:
    nodes = cluster_facts(groups.left_out).nodes
    if groups.left_out:
        raise _too_few_are_sound(recipe, groups, answer)
    if not groups.is_asked:
        check_fits(_smallest(recipe), nodes)
    failures = f"; not started: {'; '.join(answer.failures[-3:])}" if answer.failures else ""
    return ClusterError(
        "the nodes for this run have not come",
        got=f"room for {answer.here * groups.workers} worker(s) on {len(nodes)} node(s) after "
        f"{recipe.cluster.wait_for_nodes_s:g} s{failures}",
        expected=f"{groups.least * groups.workers} workers x ({_words(recipe)})",
        fix="see what the autoscaler waits for with `ray status` (on Kubernetes also `kubectl get pods`); the same "
        "command goes on; cluster.wait_for_nodes_s is how long it waits",
    )


def _too_few_are_sound(recipe: Recipe, groups: Groups, answer: Answer) -> ClusterError:
    names = ", ".join(name[:12] for name in groups.left_out)
    return ClusterError(
        "too few nodes are left whose hardware has not failed",
        got=f"room for {answer.here * groups.workers} worker(s) without {len(groups.left_out)} node(s): {names}",
        expected=f"{groups.least * groups.workers} workers x ({_words(recipe)})",
        fix="see `raysft doctor`; reset or replace these nodes (one that is started again is used again), or lower "
        "cluster.min_workers; the same command goes on",
    )


def replace_pod(node: str) -> Deleted | None:
    """Delete the pod of a node with broken hardware, where this is Kubernetes; what keeps it is told, no error."""
    try:
        deleted = delete_pod_of(node)
    except ClusterError as error:
        logger.warning("its pod stays: %s", error)
        return None
    if deleted:
        logger.warning(
            "its pod %s is deleted; `kubectl cordon %s` keeps the next one off that machine",
            deleted.pod,
            deleted.machine,
        )
    return deleted
