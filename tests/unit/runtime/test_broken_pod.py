"""The pod of a broken node, before an API server of the tests: found by its address, deleted, never the head's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from api_server import FakeApi, api_server

from raysft.errors import ClusterError
from raysft.run.nodes import replace_pod
from raysft.runtime import broken_pod
from raysft.runtime.broken_pod import Deleted, delete_pod_of

NODES = [{"NodeID": "aa", "NodeManagerAddress": "10.0.0.7"}, {"NodeID": "bb", "NodeManagerAddress": "10.0.0.9"}]


def pod(name: str, address: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "runs"},
        "spec": {"nodeName": f"machine-of-{name}"},
        "status": {"podIP": address},
    }


def serve(fake: FakeApi, *pods: dict[str, Any]) -> None:
    fake.lists["pods"] = list(pods)
    for one in pods:
        fake.objects[f"/api/v1/namespaces/runs/pods/{one['metadata']['name']}"] = {"kind": "Pod", **one}


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As Kubernetes mounts it; Ray's list of nodes is outside of what is tested."""
    (tmp_path / "account").mkdir()
    (tmp_path / "account" / "namespace").write_text("runs\n")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("RAY_CLUSTER_NAME", "my-run-x7k2p")
    monkeypatch.setattr(ray, "nodes", lambda: NODES)
    return tmp_path / "account"


def test_the_pod_with_the_nodes_address_is_deleted(account: Path, tmp_path: Path) -> None:
    with api_server(tmp_path) as fake:
        serve(fake, pod("worker-1", "10.0.0.7"), pod("worker-2", "10.0.0.9"))
        assert delete_pod_of("bb", account) == Deleted("worker-2", "machine-of-worker-2")
        assert [path for method, path, _ in fake.asked if method == "DELETE"] == [
            "/api/v1/namespaces/runs/pods/worker-2"
        ]
        selectors = [query["labelSelector"] for method, _, query in fake.asked if method == "GET"]
        assert selectors == ["ray.io/cluster=my-run-x7k2p,ray.io/node-type=worker"], (
            "never the head's, never another's"
        )


def test_a_pod_that_is_not_there_or_may_not_be_deleted(
    account: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(broken_pod, "ACCOUNT", account)
    with api_server(tmp_path) as fake:
        serve(fake, pod("worker-1", "10.0.0.7"))
        for node in ("bb", "unknown"):
            with pytest.raises(ClusterError, match="not found"):
                delete_pod_of(node, account)
        fake.refuses = lambda method, path: (403, "pods is forbidden") if method == "DELETE" else None
        with pytest.raises(ClusterError, match="refuses"):
            delete_pod_of("aa", account)
        assert fake.objects, "it is there"


def test_elsewhere_nothing_is_asked(
    account: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert delete_pod_of("aa", tmp_path / "no-account") is None
    monkeypatch.delenv("RAY_CLUSTER_NAME")
    assert delete_pod_of("aa", account) is None
    assert replace_pod("aa") is None
    assert caplog.text == ""
