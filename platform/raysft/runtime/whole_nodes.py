"""Nodes for a run that fills them: whole ones, all of whose GPUs are free, so that nobody else's job is on them and
the links between GPUs of a node are the run's alone.

Ray packs workers onto few nodes, but begins with the node that has most of everything to spare: three GPUs of one
with many CPUs and one of another, which is free as a whole (seen with Ray 2.60). Here each worker is told its node.
Where no whole nodes are free Ray packs as it does. Of an elastic run (`workers: {min, max}`) each attempt asks for as
many workers as there is room for: it never trains on fewer for the sake of whole nodes.
"""

from __future__ import annotations

from collections.abc import Collection

from ray._raylet import RAY_NODE_ID_KEY
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeState, NodeStatus

from raysft.runtime.demand import Bundle, cluster_status

KIND = "ray.io/accelerator-type"
"""Ray's label of a node with the kind of its GPUs."""


def node_selectors(wanted: Bundle, workers: int, left_out: Collection[str] = ()) -> list[dict[str, str]]:
    """Ray's label selector of each worker; empty: wherever Ray packs them. wanted: what one worker reserves."""
    status = cluster_status() if wanted.get("GPU") and workers > 1 else None
    nodes = [] if status is None else whole_nodes(status, wanted, workers, left_out)
    return [{RAY_NODE_ID_KEY: node} for node in nodes]


def whole_nodes(status: GetClusterStatusReply, wanted: Bundle, workers: int, left_out: Collection[str]) -> list[str]:
    """The node of each worker, by its id in hex, that these fill: alike ones, as few as can be. Empty: there are not
    enough that are free, or nothing would be gained. Pure."""
    alike: dict[tuple[int, str], list[str]] = {}
    for node in status.cluster_resource_state.node_states:
        room = _room(node, wanted)
        if room > 1 and workers % room == 0 and node.node_id.hex() not in left_out:
            alike.setdefault((room, node.labels.get(KIND, "")), []).append(node.node_id.hex())
    for (room, _), nodes in sorted(alike.items(), reverse=True):
        if len(nodes) >= (count := workers // room):
            return [node for node in nodes[:count] for _ in range(room)]
    return []


def _room(node: NodeState, wanted: Bundle) -> int:
    """How many workers fill all GPUs of a node; 0: some are taken, or it has not the rest that they need."""
    gpus, free = node.total_resources.get("GPU", 0.0), node.available_resources
    if node.status not in (NodeStatus.RUNNING, NodeStatus.IDLE) or not gpus or free.get("GPU", 0.0) < gpus:
        return 0
    room, rest = divmod(gpus, wanted["GPU"])
    fits = all(free.get(name, 0.0) >= amount * room for name, amount in wanted.items())
    return int(room) if fits and not rest else 0
