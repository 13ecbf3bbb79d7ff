"""What an autoscaler's status says of a demand, and which clusters have an autoscaler. No Ray is started."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from raysft.runtime import demand
from raysft.runtime.demand import Asked, answer, is_scaled

ONE = ({"CPU": 1.0},)


def status(
    *, seen: int = 5, impossible: tuple[str, ...] = (), used: float = 0, failed: tuple[str, ...] = (), dead: float = 0
) -> GetClusterStatusReply:
    """As the head gives it: version 5 of the cluster was the newest that the autoscaler has seen."""
    reply = GetClusterStatusReply()
    reply.autoscaling_state.last_seen_cluster_resource_state_version = seen
    for name in impossible:
        reply.autoscaling_state.infeasible_gang_resource_requests.add().details = f"{name}:PACK|PENDING"
    for reason in failed:
        one = reply.autoscaling_state.failed_instance_requests.add()
        one.ray_node_type_name, one.reason = "gpu", reason
    for spent, state in ((used, 1), (dead, 2)):
        node = reply.cluster_resource_state.node_states.add()
        node.status = state
        node.total_resources["CPU"], node.available_resources["CPU"] = 8, 8 - spent
    return reply


@pytest.mark.parametrize(
    ("told", "here", "beyond", "is_shared"),
    [
        (status(seen=4, impossible=("b",)), 0, None, False),  # of a state before the demand stood
        (status(), 0, 0, False),
        (status(impossible=("b",)), 0, 1, False),
        (status(impossible=("a", "b", "x")), 0, 4, False),  # x: somebody else's
        (status(used=3), 3, 0, False),  # ours
        (status(used=4, impossible=("b",)), 3, 1, True),
        (status(used=2, impossible=("a", "b")), 0, 4, True),
        (status(impossible=("a",)), 3, 0, False),  # it came in between
        (status(dead=8, impossible=("a",)), 0, 3, False),
    ],
)
def test_an_answer(told: GetClusterStatusReply, here: int, beyond: int | None, is_shared: bool) -> None:
    asked = {"a": Asked(3, here == 3), "b": Asked(1, False)}
    assert answer(told, asked, 4, ONE) == demand.Answer(4, here, beyond, is_shared)


def test_why_nodes_did_not_start_is_kept() -> None:
    found = answer(status(failed=("no quota",)), {"a": Asked(1, False)}, 0, ONE)
    assert found.failures == ("gpu: no quota",)


def report(*types: str) -> bytes:
    return json.dumps({"autoscaler_report": {"active_nodes": dict.fromkeys(types, 1)}, "time": 1.0}).encode()


@pytest.mark.parametrize(
    ("flag", "written", "scaled"),
    [
        (None, None, False),  # ray.init() on a machine
        (b"1", None, True),
        (b"0", None, False),
        (b"0", report("node_4af1", "node_77"), False),  # `ray start` by hand: it only looks on
        (b"0", report("ray.head.default"), True),
        (None, b"not JSON", False),
        (None, b"[]", False),
        (None, b"{}", False),
    ],
)
def test_which_clusters_scale(flag: bytes | None, written: bytes | None, scaled: bool) -> None:
    assert is_scaled(flag, written) is scaled


def test_without_a_ray_nothing_scales() -> None:
    assert demand.scales() is False


def test_what_was_asked_for_is_given_back_when_the_demand_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second group cannot be made; the first must not stay."""
    made: list[Any] = []

    def make(bundles: list[dict[str, float]], bundle_label_selector: object) -> Any:
        if made:
            raise RuntimeError("the head is gone")
        made.append(bundles)
        return bundles

    monkeypatch.setattr(demand, "placement_group", make)
    monkeypatch.setattr(demand, "remove_placement_group", made.remove)
    with pytest.raises(RuntimeError, match="head is gone"), demand.Demand(ONE, least=2, most=3):
        pass
    assert made == []
