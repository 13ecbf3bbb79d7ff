"""The pod of a node whose hardware has failed: deleted, so that KubeRay's operator brings another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import ray

from raysft.errors import ClusterError
from raysft.runtime.kubernetes_client import Kubernetes

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What a pod with a service account is given: `namespace`, `token`, `ca.crt`."""
CLUSTER = "RAY_CLUSTER_NAME"
"""Set by KubeRay in each of its pods."""


@dataclass(frozen=True)
class Deleted:
    """A pod that is gone, and the machine that it was on."""

    pod: str
    machine: str


def delete_pod_of(node: str, account: Path = ACCOUNT) -> Deleted | None:
    """Delete the pod that a node of Ray (its id in hex) is; None: this is no pod, or one without a service account.

    Raises ClusterError where there is no such pod or it may not be deleted, as the head's never is.
    """
    cluster, namespace = os.environ.get(CLUSTER), account / "namespace"
    if not cluster or not namespace.exists():
        return None
    address = next((one["NodeManagerAddress"] for one in ray.nodes() if one["NodeID"] == node), None)
    server = Kubernetes()
    path = f"/api/v1/namespaces/{namespace.read_text().strip()}/pods"
    for pod in server.items(path, labelSelector=f"ray.io/cluster={cluster},ray.io/node-type=worker") or ():
        if address and pod.get("status", {}).get("podIP") == address:
            server.delete(f"{path}/{pod['metadata']['name']}")
            return Deleted(pod["metadata"]["name"], pod["spec"].get("nodeName", "unknown"))
    raise ClusterError(
        "the pod of a broken node is not found",
        got=f"no worker's pod of {cluster} has the address {address}",
        expected="one, to be deleted",
        fix="`kubectl get pods -o wide` shows them; the run goes on without that node",
    )
