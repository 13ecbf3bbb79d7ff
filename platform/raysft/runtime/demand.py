"""What is asked of a cluster that grows and shrinks by itself, and what its autoscaler answers.

Asked with placement groups: the demands of several drivers stand beside each other (request_resources has one for the
whole cluster), Ray forgets them with the process that made them, and what came stays until it is given back. What an
autoscaler could bring at the most it tells nobody in Ray 2.60; which demands it can never meet it does: decision 042.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ray
from ray._raylet import (
    GCS_AUTOSCALER_STATE_NAMESPACE,
    GCS_AUTOSCALER_V2_ENABLED_KEY,
    RAY_NODE_ID_KEY,
    GcsClient,
)
from ray.core.generated.autoscaler_pb2 import DEAD, ClusterResourceState, GetClusterStatusReply
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from raysft.runtime.head_watch import gcs_address

Bundle = dict[str, float]
"""Resources of one worker by Ray's names."""

STATUS = "__autoscaling_status"
"""Where autoscaler v1 writes down what it does."""
READ_ONLY = "node_"
"""Types of nodes begin with it where Ray's first autoscaler only looks on."""
TIMEOUT_S = 10.0


Group = tuple[Bundle, ...]
"""What is of use together only."""


@dataclass(frozen=True)
class Answer:
    """What has come of a demand, and what the autoscaler says of the rest, in its units (replicas, trials)."""

    wanted: int
    here: int
    """Reserved."""
    beyond: int | None = None
    """More than the autoscaler can bring as the cluster is used now; None: it has not said (yet)."""
    is_shared: bool = False
    """Others use the cluster: what is beyond now may come later."""
    failures: tuple[str, ...] = ()
    """Why nodes could not be started."""


def scales() -> bool:
    """Has the cluster an autoscaler? Of a Ray that was started by hand: no."""
    client = _client()
    if client is None:
        return False
    flag = client.internal_kv_get(
        GCS_AUTOSCALER_V2_ENABLED_KEY.encode(), GCS_AUTOSCALER_STATE_NAMESPACE.encode(), timeout=TIMEOUT_S
    )
    status = client.internal_kv_get(STATUS.encode(), None, timeout=TIMEOUT_S)
    return is_scaled(flag, status)


def is_scaled(flag: bytes | None, status: bytes | None) -> bool:
    """By what the head keeps: the flag of autoscaler v2; else the report of v1, with its nodes (pure)."""
    if flag == b"1":
        return True
    try:
        nodes = json.loads(status or b"{}").get("autoscaler_report", {}).get("active_nodes", {})
    except (ValueError, AttributeError):
        return False
    return any(not name.startswith(READ_ONLY) for name in nodes)


def not_on(nodes: Sequence[str]) -> dict[str, str]:
    """Ray's label selector of all nodes but these; empty: any node will do."""
    return {RAY_NODE_ID_KEY: f"!in({', '.join(nodes)})"} if nodes else {}


class Demand:
    """Units of equal bundles, asked for while the block lasts: the first `least` together, the others one by one.

    So nothing is started for what would be of no use alone.
    """

    def __init__(self, unit: Group, *, least: int, most: int, left_out: Sequence[str] = ()) -> None:
        self._asked = [unit * least, *[unit] * (most - least)]
        self._groups: list[tuple[PlacementGroup, Group]] = []
        self._unit, self._since, self._selector = unit, 0, not_on(left_out)

    def __enter__(self) -> Demand:
        try:
            for group in self._asked:
                selectors = [self._selector] * len(group) if self._selector else None
                made = placement_group([dict(bundle) for bundle in group], bundle_label_selector=selectors)
                self._groups.append((made, group))
            self._since = _status().cluster_resource_state.cluster_resource_state_version
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for group, _ in self._groups:
            with suppress(Exception):  # boundary: the head may be gone, and its memory with it
                remove_placement_group(group)

    def look(self) -> Answer:
        """What has become of it by now."""
        asked = {
            group.id.hex(): Asked(len(bundles) // len(self._unit), _state(group) == "CREATED")
            for group, bundles in self._groups
        }
        return answer(_status(), asked, self._since, self._unit)


@dataclass(frozen=True)
class Asked:
    """One placement group of a demand."""

    units: int
    is_here: bool


def answer(status: GetClusterStatusReply, asked: Mapping[str, Asked], since: int, unit: Group) -> Answer:
    """What a status of the cluster says of a demand's placement groups, by their ids in hex (pure).

    since: version of the cluster's state in which all of them stood for the first time.
    """
    here = sum(one.units for one in asked.values() if one.is_here)
    found, cluster = status.autoscaling_state, status.cluster_resource_state
    beyond = None
    if found.last_seen_cluster_resource_state_version > since:
        impossible = {request.details.partition(":")[0] for request in found.infeasible_gang_resource_requests}
        beyond = sum(one.units for name, one in asked.items() if name in impossible and not one.is_here)
    failures = tuple(f"{one.ray_node_type_name}: {one.reason}" for one in found.failed_instance_requests)
    wanted = sum(one.units for one in asked.values())
    return Answer(wanted, here, beyond, _is_shared(cluster, here, unit), failures)


def _is_shared(cluster: ClusterResourceState, here: int, unit: Group) -> bool:
    """Is more in use than what came of the demand?"""
    nodes = [node for node in cluster.node_states if node.status != DEAD]
    for name in {name for bundle in unit for name in bundle}:
        used = sum(node.total_resources.get(name, 0) - node.available_resources.get(name, 0) for node in nodes)
        if used > here * sum(bundle.get(name, 0) for bundle in unit) + 1e-6:
            return True
    return False


def _state(group: PlacementGroup) -> str:
    return str(placement_group_table(group).get("state", "PENDING"))


def _status() -> GetClusterStatusReply:
    client = _client()
    assert client is not None  # scales() was asked before
    return GetClusterStatusReply.FromString(client.get_cluster_status(timeout_s=TIMEOUT_S))


def _client() -> Any:
    """The head's; None where the driver is outside of the cluster (`ray://`)."""
    address = gcs_address() if ray.is_initialized() else ""
    return GcsClient(address=address) if address else None


@dataclass(frozen=True)
class Waiting:
    """A demand of somebody's that waits."""

    bundle: Bundle
    count: int
    is_impossible: bool
    """Larger than any node that is there; and the autoscaler, where there is one, calls it impossible."""


def waiting() -> list[Waiting]:
    """What waits in the cluster now; nothing where the driver is outside of it."""
    status = cluster_status()
    return [] if status is None else waiting_in(status, is_scaled=scales())


def cluster_status() -> GetClusterStatusReply | None:
    """What the head says of its nodes and what they have free; None where the driver is outside of the cluster."""
    return None if _client() is None else _status()


def waiting_in(status: GetClusterStatusReply, *, is_scaled: bool) -> list[Waiting]:
    """Tasks, actors and bundles of placement groups that wait, by a status of the cluster (pure)."""
    cluster, found = status.cluster_resource_state, status.autoscaling_state
    nodes = [dict(node.total_resources) for node in cluster.node_states if node.status != DEAD]
    called = [dict(request.resources_bundle) for request in found.infeasible_resource_requests]
    called += [
        dict(one.resources_bundle) for gang in found.infeasible_gang_resource_requests for one in gang.requests
    ]
    asked: Counter[tuple[tuple[str, float], ...]] = Counter()
    for request in cluster.pending_resource_requests:
        asked[tuple(sorted(request.request.resources_bundle.items()))] += request.count
    for gang in cluster.pending_gang_resource_requests:
        for one in gang.requests:
            asked[tuple(sorted(one.resources_bundle.items()))] += 1
    return [
        Waiting(bundle, count, not _is_held(bundle, nodes) and (not is_scaled or bundle in called))
        for bundle, count in ((dict(items), count) for items, count in asked.items())
    ]


def _is_held(bundle: Bundle, nodes: list[Bundle]) -> bool:
    return any(all(node.get(name, 0) >= amount for name, amount in bundle.items()) for node in nodes)
