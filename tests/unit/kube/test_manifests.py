"""k8s/ as it is applied: every overlay builds, its objects and the jobs of its cluster's file break no rule."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from importlib.metadata import version
from typing import Any

import pytest
import yaml
from kube_material import CLUSTER_FILES, FOLDERS, K8S, OLDEST, objects_of
from kube_rules import broken_rules, cluster_of
from kustomize import build


@pytest.mark.parametrize("folder", FOLDERS)
def test_objects_break_no_rule(folder: str) -> None:
    found = build(K8S / folder)
    assert {one["kind"] for one in found} >= {"Namespace", "ServiceAccount", "ResourceQuota", "NetworkPolicy"}
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)
    for one in found:
        assert broken_rules(one) == [], (one["kind"], one["metadata"]["name"])
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "raysft"


@pytest.mark.parametrize("file", CLUSTER_FILES)
def test_jobs_by_every_file_of_a_cluster_break_no_rule(file: str) -> None:
    for verb in ("train", "tune", "doctor"):
        found = objects_of(file, verb)
        assert [one["kind"] for one in found] == ["ConfigMap", *["RayJob"] * (1 if verb == "doctor" else 2)]
        for one in found:
            assert broken_rules(one) == [], (file, verb, one["metadata"]["name"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_applied(folder: str) -> None:
    """A file that no kustomization names is a rule that holds nowhere. A cluster's file is read by raysft."""
    place = K8S / folder
    content = yaml.safe_load((place / "kustomization.yaml").read_text())
    files = {file.name for file in place.glob("*.yaml")} - {"kustomization.yaml", "cluster.yaml"}
    assert files == {one for one in content["resources"] if one.endswith(".yaml")}


def test_every_folder_is_tried() -> None:
    there = {str(file.parent.relative_to(K8S)) for file in K8S.rglob("kustomization.yaml")}
    assert there == {*FOLDERS, "components/api-server"}
    assert {str(file.relative_to(K8S)) for file in K8S.rglob("cluster.yaml")} == set(CLUSTER_FILES)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here; `make test-admission` has kustomize")
@pytest.mark.parametrize("folder", ["overlays/dev", "overlays/monitoring"])
def test_they_build_as_kubectl_builds_them(folder: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", K8S / folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert in_order(yaml.safe_load_all(done.stdout)) == in_order(build(K8S / folder))


def in_order(objects: Any) -> list[dict[str, Any]]:
    return sorted(objects, key=lambda one: (one["kind"], one["metadata"]["name"]))


def test_heads_that_scale_reach_the_api_server() -> None:
    for folder in FOLDERS:
        found = build(K8S / folder)
        file = K8S / folder / "cluster.yaml"
        wants = any((cluster_of(one) or {}).get("enableInTreeAutoscaling") for one in found)
        wants |= file.exists() and "autoscale: true" in file.read_text()
        ports = [
            port["port"]
            for one in found
            if one["kind"] == "NetworkPolicy"
            and one["spec"]["podSelector"].get("matchLabels") == {"ray.io/node-type": "head"}
            for rule in one["spec"]["egress"]
            for port in rule["ports"]
        ]
        assert (set(ports) == {443, 6443}) == wants, folder


def test_names_can_be_looked_up_by_every_pod_that_is_shut_in() -> None:
    for folder in FOLDERS:
        for one in build(K8S / folder):
            if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] in ("raysft", "raysft-history"):
                ports = [
                    (port["port"], port["protocol"])
                    for rule in one["spec"]["egress"]
                    for port in rule.get("ports", ())
                ]
                assert {(53, "UDP"), (53, "TCP")} <= set(ports), folder


def test_clusters_that_stay_have_the_ray_of_this_machine() -> None:
    found = [cluster_of(one) for folder in FOLDERS for one in build(K8S / folder) if one["kind"] == "RayCluster"]
    assert [spec["rayVersion"] for spec in found if spec] == [version("ray")] * 2


MUTANTS: list[tuple[str, tuple[Any, ...], Any, str]] = [
    ("RayJob", ("spec", "submissionMode"), "SidecarMode", "log stream"),
    ("RayJob", ("spec", "submissionMode"), "HttpMode", "log stream"),  # a typo, which the API server takes
    ("RayJob", ("spec", "submitterPodTemplate"), {}, "submitter"),
    ("RayJob", ("spec", "shutdownAfterJobFinishes"), False, "ttl"),
    ("RayJob", ("spec", "activeDeadlineSeconds"), 0, "no deadline"),
    ("RayJob", ("spec", "preRunningDeadlineSeconds"), None, "no deadline"),
    ("RayJob", ("spec", "preRunningDeadlineSeconds"), 10**9, "later than"),
    ("RayJob", ("metadata", "name"), "n" * 48, "name"),
    ("RayJob", ("apiVersion",), "ray.io/v1alpha1", "apiVersion"),
    ("cluster", ("authOptions", "mode"), "disabled", "no token"),
    ("cluster", ("rayVersion",), None, "no token"),
    ("cluster", ("rayVersion",), "2.51.0", "knows no token"),
    ("cluster", ("headGroupSpec", "rayStartParams", "num-cpus"), "8", "head"),
    ("cluster", ("enableInTreeAutoscaling",), False, "nobody brings"),
    ("cluster", ("autoscalerOptions", "version"), "v1", "impossible demands"),
    ("cluster", ("autoscalerOptions", "idleTimeoutSeconds"), None, "idle"),
    ("cluster", ("autoscalerOptions", "securityContext"), {}, "privileges of the autoscaler"),
    ("cluster", ("headGroupSpec", "template", "spec", "automountServiceAccountToken"), False, "without a token"),
    ("head", ("restartPolicy",), "Always", "two nodes"),
    ("group", ("minReplicas",), 7, "fewer pods"),
    ("group", ("rayStartParams", "num-gpus"), None, "other GPUs"),
    ("worker", ("terminationGracePeriodSeconds",), 90, "killed while it drains"),
    ("worker", ("terminationGracePeriodSeconds",), None, "killed while it drains"),
    ("worker", ("automountServiceAccountToken",), None, "a worker with a token"),
    ("worker", ("containers", 0, "resources", "requests", "memory"), "1Gi", "requests"),
    ("worker", ("containers", 0, "securityContext"), {}, "privileges"),
    ("worker", ("containers", 0, "image"), "raysft:latest", "version"),
    ("worker", ("containers", 0, "env", 0), {"name": "HF_TOKEN", "value": "hf_1"}, "secret by value"),
    ("worker", ("securityContext", "runAsNonRoot"), False, "root"),
    ("worker", ("securityContext", "seccompProfile"), None, "seccomp"),
    ("worker", ("volumes", 0, "name"), "scratch", "shared memory"),
    ("worker", ("volumes", 0, "emptyDir", "sizeLimit"), "9Ti", "fills the pod"),
    ("worker", ("volumes", 1), {"name": "storage", "emptyDir": {}}, "ends with the pod"),
    ("worker", ("volumes", 1), {"name": "storage", "hostPath": {"path": "/"}}, "of the node"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "path", "value", "told"), MUTANTS)
def test_what_is_wrong_is_refused(part: str, path: tuple[Any, ...], value: Any, told: str) -> None:
    job = copy.deepcopy(objects_of("overlays/spot-elastic/cluster.yaml", "train")[2])
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    node: Any = {
        "RayJob": job,
        "cluster": cluster,
        "head": cluster["headGroupSpec"]["template"]["spec"],
        "group": group,
        "worker": group["template"]["spec"],
    }[part]
    change(node, path, value)
    assert any(told in rule for rule in broken_rules(job)), broken_rules(job)


def change(node: Any, path: tuple[Any, ...], value: Any) -> None:
    """Set what lies at a path; None: take it away."""
    for key in path[:-1]:
        node = node[key]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value


@pytest.mark.parametrize(
    ("kind", "path", "value", "told"),
    [
        ("Role", ("rules", 0, "verbs"), ["*"], "everything"),
        ("Role", ("rules", 0, "resources"), ["secrets"], "somebody else"),
        ("PersistentVolumeClaim", ("spec", "accessModes"), ["ReadWriteOnce"], "one node"),
        ("ServiceAccount", ("automountServiceAccountToken",), None, "each pod"),
        ("Namespace", ("metadata", "labels"), {}, "any pod"),
        ("NetworkPolicy", ("spec", "podSelector"), {}, "all pods"),
        ("NetworkPolicy", ("spec", "egress", 0), {}, "all through"),
        ("PodDisruptionBudget", ("apiVersion",), "policy/v1beta1", "apiVersion"),
        ("ResourceQuota", ("kind",), "Secret", "repository"),
    ],
)
def test_what_is_wrong_around_the_pods_is_refused(kind: str, path: tuple[Any, ...], value: Any, told: str) -> None:
    one = next(one for one in build(K8S / "base") if one["kind"] == kind and one.get("spec", {}).get("egress", 1))
    change(one, path, value)
    assert any(told in rule for rule in broken_rules(one)), broken_rules(one)


def test_the_line_of_versions_is_what_the_files_are_for() -> None:
    guide = (K8S.parent / "docs" / "guide" / "kubernetes.md").read_text()
    line = next(line for line in guide.splitlines() if line.startswith("**Goes with:**"))
    stated = dict(re.findall(r"(Ray|KubeRay|Kueue|Kubernetes)(?: >=)? ([0-9.]*[0-9])", line))
    assert version("ray").startswith(stated["Ray"] + ".")
    texts = [file.read_text() for file in K8S.rglob("*.yaml")]
    images = {tag for text in texts for tag in re.findall(r"quay.io/kuberay/[a-z]+:v([0-9.]+)", text)}
    assert images == {stated["KubeRay"]}
    assert f"--version {stated['KubeRay']}" in guide
    assert (stated["Kueue"], "(v1beta2)" in line) == ("0.19", True)
    assert {one for text in texts for one in re.findall(r"kueue.x-k8s.io/(v\w+)", text)} == {"v1beta2"}
    assert stated["Kubernetes"] == OLDEST
