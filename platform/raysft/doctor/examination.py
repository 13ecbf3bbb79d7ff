"""A cluster examined: probes on every node, between the nodes and from here; what they found, judged."""

from __future__ import annotations

import os
import secrets
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from raysft import storage
from raysft.doctor.checks import examine as judge
from raysft.doctor.facts import Disk, Facts, Finding, GpuHealth, LinkFacts, NodeFacts, OpenPort, Pending, Security
from raysft.doctor.facts import StorageTrial as Trial
from raysft.doctor.link_probe import measure_link
from raysft.doctor.node_probe import MARKER, examine_node
from raysft.errors import ClusterError, StorageError
from raysft.recipe.facts import ClusterFacts
from raysft.recipe.resolve import check_fits
from raysft.recipe.schema import Recipe
from raysft.runtime import demand
from raysft.runtime.head_watch import gcs_address
from raysft.runtime.join import cluster, cluster_facts
from raysft.runtime.on_nodes import AliveNode, alive_nodes, collect, dashboard_url, has_token, on_node

PROBE_S, CLOCK_S, LINK_S = 300.0, 10.0, 120.0
"""How long a node may take for each probe: imports from a cold disk take minutes."""
CLOCK_ROUNDS = 5
TLS_FILES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


@dataclass(frozen=True)
class Examination:
    """What is to be said of a cluster."""

    findings: Sequence[Finding]

    @property
    def is_well(self) -> bool:
        """Did no check fail? Warnings do not count."""
        return all(finding.verdict != "fail" for finding in self.findings)

    def lines(self) -> list[str]:
        """A line a finding, its fix below it."""
        told = []
        for one in self.findings:
            told.append(f"{one.verdict:5} {one.check:9} {one.evidence}")
            told += [f"{'':15} fix: {one.fix}"] if one.fix else []
        counts = {verdict: sum(one.verdict == verdict for one in self.findings) for verdict in ("fail", "warn")}
        return [*told, f"{len(self.findings)} checks: {counts['fail']} failed, {counts['warn']} warnings"]

    def to_json(self) -> dict[str, Any]:
        """{is_well, findings}."""
        return {"is_well": self.is_well, "findings": [finding.to_json() for finding in self.findings]}


def examine(recipe: Recipe | None = None, location: str | None = None) -> Examination:
    """Examine the cluster in RAY_ADDRESS, or this machine. location: a storage to try; default: the recipe's.

    Raises ClusterError when there is no cluster to join.
    """
    is_own, guarded = "RAY_ADDRESS" not in os.environ, (os.environ.get("RAY_AUTH_MODE", ""), has_token())
    place = location or (recipe.storage if recipe else None)
    with cluster():
        security = None if is_own else look_at_security(*guarded)
        facts = gather(recipe, storage.absolute(place) if place else None, security)
    return Examination(judge(facts))


def gather(recipe: Recipe | None, location: str | None, security: Security | None) -> Facts:
    """Everything that checks.py wants to know of the cluster that was joined."""
    alive = alive_nodes()
    marker = _leave_marker(location)
    try:
        question = {"storage": location, "marker": marker}
        told, failures = collect({node.identity: on_node(node, examine_node, question) for node in alive}, PROBE_S)
    finally:
        if location and marker:
            with suppress(OSError, StorageError):
                storage.remove_tree(storage.join(location, marker))
    answering = [node for node in alive if node.identity in told]
    names = names_of(alive)
    nodes = [_node_facts(node, names[node.identity], told[node.identity]) for node in answering]
    return Facts(
        nodes=nodes,
        unreachable={names[identity]: why for identity, why in failures.items()},
        links=_links(answering) if len(answering) > 1 else None,
        security=security,
        pending=[Pending(one.bundle, one.count, one.is_impossible) for one in demand.waiting()],
        recipe_problem=None if recipe is None else _recipe_problem(recipe, cluster_facts(), demand.scales()),
    )


def names_of(nodes: Sequence[AliveNode]) -> dict[str, str]:
    """{id: the node's address, with the id's end where several nodes have one address}."""
    counts = Counter(node.address for node in nodes)
    return {
        node.identity: node.address if counts[node.address] == 1 else f"{node.address}/{node.identity[-6:]}"
        for node in nodes
    }


def _leave_marker(location: str | None) -> str | None:
    """Name of a file that nodes should see; None: this machine cannot write there, which the nodes will tell."""
    if location is None:
        return None
    name = f"{MARKER}-{secrets.token_hex(6)}"
    try:
        storage.write_bytes(storage.join(location, name), b"raysft doctor")
    except (OSError, StorageError):
        return None
    return name


def _node_facts(node: AliveNode, name: str, told: dict[str, Any]) -> NodeFacts:
    asked, _ = collect({"clock": on_node(node, read_clock)}, CLOCK_S)  # its process is warm now
    offset, error = measure_clock(lambda: _clock_of(node)) if asked else (None, 0.0)
    gpus = None if told["gpus"] is None else [GpuHealth(**gpu) for gpu in told["gpus"]]
    return NodeFacts(
        node=node.identity[:12],
        address=name,
        versions=told["versions"],
        broken_imports=told["broken_imports"],
        clock_offset_s=offset,
        clock_error_s=error,
        storage=None if told["storage"] is None else Trial(**told["storage"]),
        disks=[Disk(**disk) for disk in told["disks"]],
        ray_gpus=node.resources.get("GPU", 0),
        gpus=gpus,
        auth_mode=told["auth_mode"],
    )


def read_clock() -> float:
    """Unix time of the node that this runs on."""
    return time.time()


def _clock_of(node: AliveNode) -> float:
    found, failures = collect({"clock": on_node(node, read_clock)}, CLOCK_S)
    if failures:
        raise ClusterError(f"no clock of {node.address}", got=failures["clock"])
    return float(found["clock"])


def measure_clock(ask: Callable[[], float], clock: Callable[[], float] = time.time) -> tuple[float, float]:
    """(offset, error at most) in seconds of a clock that ask() reads: of the quickest answer (Cristian 1989)."""
    rounds = []
    for _ in range(CLOCK_ROUNDS):
        sent, told, received = clock(), ask(), clock()
        rounds.append((received - sent, told - (sent + received) / 2))
    took, offset = min(rounds)
    return offset, took / 2


def _links(nodes: Sequence[AliveNode]) -> LinkFacts:
    found, _ = collect({"port": on_node(nodes[0], free_port)}, CLOCK_S)
    if "port" not in found:
        return LinkFacts(len(nodes), error="the head gives no port")
    begun = {
        node.identity: on_node(node, measure_link, rank, len(nodes), nodes[0].address, found["port"])
        for rank, node in enumerate(nodes)
    }
    told, failures = collect(begun, LINK_S)
    if failures:
        where = {node.identity: node.address for node in nodes}
        texts = "; ".join(f"{where[name]}: {why}" for name, why in failures.items())
        return LinkFacts(len(nodes), error=texts[:500])
    latency = max(one["latency_ms"] for one in told.values())
    return LinkFacts(len(nodes), latency_ms=latency, mb_s=min(one["mb_s"] for one in told.values()))


def free_port() -> int:
    """One that nobody listens at on the node that this runs on."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def look_at_security(auth_mode: str, has_token: bool) -> Security:
    """How the cluster that was joined is guarded.

    auth_mode, has_token: as this command was given them, before Ray looked.
    """
    tls = os.environ.get("RAY_USE_TLS", "0") not in ("", "0", "false")
    missing = [name for name in TLS_FILES if tls and not os.path.isfile(os.environ.get(name, ""))]
    url = dashboard_url()
    port = ask_without_token(f"http://{url}/api/jobs/") if url else None
    return Security(auth_mode, has_token, tls, missing, gcs_address(), port)


def ask_without_token(url: str) -> OpenPort:
    """What a service answers to somebody who has no token. No proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return OpenPort(url, int(answer.status))
    except urllib.error.HTTPError as error:
        return OpenPort(url, error.code)
    except OSError:
        return OpenPort(url, 0)


def _recipe_problem(recipe: Recipe, nodes: ClusterFacts, is_scaled: bool) -> str:
    """Empty: nothing, or an autoscaler brings nodes and says more when the run begins."""
    if is_scaled:
        return ""
    try:
        check_fits(recipe, nodes.nodes)
    except ClusterError as error:
        return f"{error.what}: {error.got}"
    return ""
