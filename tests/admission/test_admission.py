"""Every manifest of a custom resource before a real API server: `make test-admission` builds it first.

BUILD names what tests/admission/build.sh made; without it, or without KubeRay's definitions, nothing here runs.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_material import CLUSTER_FILES, CRDS, FOLDERS, K8S, objects_of
from kustomize import build

sys.path.insert(0, str(Path(__file__).parent))
from serve import Server, api_server

BUILD = Path(os.environ.get("BUILD", "nowhere"))
pytestmark = [
    pytest.mark.full,
    pytest.mark.shared,
    pytest.mark.skipif(not (BUILD / "apiserver").exists(), reason="no API server was built: make test-admission"),
    pytest.mark.skipif(not CRDS.exists(), reason="KubeRay's definitions are not at hand"),
]
KINDS = ("RayJob", "RayCluster")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    files = [CRDS / f"ray.io_{kind.lower()}s.yaml" for kind in KINDS]
    with api_server(BUILD, tmp_path_factory.mktemp("server"), files) as found:
        yield found


def test_kustomize_builds_what_the_tests_build() -> None:
    for folder in FOLDERS:
        done = subprocess.run([BUILD / "kustomize", "build", K8S / folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert in_order(yaml.safe_load_all(done.stdout)) == in_order(build(K8S / folder)), folder


def in_order(objects: Any) -> list[dict[str, Any]]:
    return sorted(objects, key=lambda one: (one["kind"], one["metadata"]["name"]))


def test_every_custom_resource_is_admitted(server: Server) -> None:
    found = [one for folder in FOLDERS for one in build(K8S / folder)]
    found += [one for file in CLUSTER_FILES for verb in ("train", "tune", "doctor") for one in objects_of(file, verb)]
    mine = [one for one in found if one["kind"] in KINDS]
    assert len(mine) == 2 + 5 * len(CLUSTER_FILES)
    answers = {(one["kind"], one["metadata"]["name"]): server.admit(one) for one in mine}
    assert {status for status, _ in answers.values()} == {201}, answers


@pytest.mark.parametrize(
    ("path", "value", "status", "told"),
    [
        (("entrypoynt",), "raysft train", 400, "entrypoynt"),
        (("activeDeadlineSeconds",), "soon", 422, "activeDeadlineSeconds"),
        (("rayClusterSpec", "autoscalerOptions", "version"), "v3", 422, "version"),
        (("rayClusterSpec", "workerGroupSpecs", 0, "replicas"), "one", 422, "replicas"),
        (("rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "restart"), "Never", 400, "spec.restart"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, 422, "num-cpus"),
        (("rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "resources", "limits", "memory"),
         "5Gib", 422, "memory"),
        (("managedBy",), "me", 422, "managedBy"),  # CEL
        (("submissionMode",), "SideCar", 201, ""),  # no enum there: our own rules refuse it
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(server: Server, path: tuple[Any, ...], value: Any, status: int, told: str) -> None:
    job = copy.deepcopy(objects_of("overlays/spot-elastic/cluster.yaml", "train")[2])
    node: Any = job["spec"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    found, message = server.admit(job)
    assert (found, told in message) == (status, True), message
