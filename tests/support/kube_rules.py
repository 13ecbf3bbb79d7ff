"""Which rules a manifest breaks: KubeRay's (validation of v1.7), Pod Security's `restricted`, and raysft's own.

Shares no code with raysft.kube. The API server takes most of what is refused here: `submissionMode` is a free
text there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
API_VERSIONS = {
    *("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1", "rbac.authorization.k8s.io/v1"),
    *("ray.io/v1", "kueue.x-k8s.io/v1beta2", "monitoring.coreos.com/v1"),
}
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|ACCESS_KEY", re.IGNORECASE)
UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
RAY_DRAINS_S = 30
"""Where RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is not set; Kubernetes' own grace is as long, and loses the race."""


def broken_rules(one: Object) -> list[str]:
    """In words; empty: none."""
    found = []
    if one["apiVersion"] not in API_VERSIONS:
        found.append(f"apiVersion {one['apiVersion']}")
    check = _CHECKS.get(one["kind"])
    found += [] if check is None else check(one)
    for pod in pods_of(one):
        found += _pod(pod["spec"])
    return found


def pods_of(one: Object) -> Iterator[Object]:
    """Pod templates of an object."""
    if one["kind"] == "Deployment":
        yield one["spec"]["template"]
    cluster = cluster_of(one)
    if cluster is not None:
        yield cluster["headGroupSpec"]["template"]
        yield from (group["template"] for group in cluster["workerGroupSpecs"])


def cluster_of(one: Object) -> Object | None:
    """The spec of a RayCluster, or of a RayJob's."""
    if one["kind"] == "RayCluster":
        return dict(one["spec"])
    return dict(one["spec"]["rayClusterSpec"]) if one["kind"] == "RayJob" else None


def _job(one: Object) -> list[str]:
    spec, found = one["spec"], []
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not spec.get("shutdownAfterJobFinishes"):
        found.append("a ttl needs shutdownAfterJobFinishes")
    if not spec.get("shutdownAfterJobFinishes"):
        found.append("its pods stay after its end")
    if spec.get("submissionMode") != "HTTPMode":
        found.append("a log stream may decide over the job")
    if "submitterPodTemplate" in spec or "submitterConfig" in spec:
        found.append("a submitter means nothing in HTTPMode")
    if not spec.get("activeDeadlineSeconds") or not spec.get("preRunningDeadlineSeconds"):
        found.append("no deadline")
    elif spec["preRunningDeadlineSeconds"] > spec["activeDeadlineSeconds"]:
        found.append("the deadline of the start is later than that of the end")
    if len(one["metadata"]["name"]) > 47:
        found.append("name")
    return found + _cluster(spec["rayClusterSpec"])


def _cluster(spec: Object) -> list[str]:
    found, head = [], spec["headGroupSpec"]
    version = re.fullmatch(r"(\d+)\.(\d+)\.\d+", str(spec.get("rayVersion", "")))
    if spec.get("authOptions", {}).get("mode") != "token" or not version:
        found.append("no token")
    elif (int(version[1]), int(version[2])) < (2, 52):
        found.append("this Ray knows no token")
    if head["rayStartParams"].get("num-cpus") != "0":
        found.append("work on the head")
    for group in spec["workerGroupSpecs"]:
        found += _group(group)
    if any(group["replicas"] < group["minReplicas"] for group in spec["workerGroupSpecs"]):
        found.append("fewer pods than the fewest")
    if spec.get("enableInTreeAutoscaling"):
        found += _autoscaler(spec)
    elif any(group["replicas"] == 0 for group in spec["workerGroupSpecs"]):
        found.append("nobody brings the pods")
    return found


def _autoscaler(spec: Object) -> list[str]:
    found, options = [], spec.get("autoscalerOptions", {})
    if options.get("version") != "v2":
        found.append("the autoscaler that says nothing of impossible demands")
    if not options.get("idleTimeoutSeconds"):
        found.append("no idle time")
    if options.get("securityContext", {}).get("allowPrivilegeEscalation", True):
        found.append("privileges of the autoscaler")
    head = spec["headGroupSpec"]["template"]["spec"]
    if not head.get("automountServiceAccountToken"):
        found.append("an autoscaler without a token of the API server")
    templates = [head, *(group["template"]["spec"] for group in spec["workerGroupSpecs"])]
    if any(pod.get("restartPolicy") != "Never" for pod in templates):
        found.append("a pod that is restarted is two nodes of Ray")
    return found


def _group(group: Object) -> list[str]:
    found, pod = [], group["template"]["spec"]
    (container,) = pod["containers"]
    drains = {one["name"]: one.get("value") for one in container.get("env", ())}.get(
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", RAY_DRAINS_S
    )
    if pod.get("restartPolicy") == "Never" and pod.get("terminationGracePeriodSeconds", 30) <= int(drains):
        found.append("a pod is killed while it drains")
    if pod.get("automountServiceAccountToken", True):
        found.append("a worker with a token of the API server")
    gpus = [amount for name, amount in container["resources"]["limits"].items() if "gpu" in name]
    if [group["rayStartParams"].get("num-gpus")] != (gpus or [None]):
        found.append("Ray and Kubernetes count other GPUs")
    return found


def _pod(spec: Object) -> list[str]:
    found = []
    for container in spec["containers"]:
        resources = container.get("resources", {})
        if not resources.get("limits") or resources.get("requests") != resources["limits"]:
            found.append("requests are not limits")
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation", True) or security.get("capabilities") != {"drop": ["ALL"]}:
            found.append("privileges")
        for variable in container.get("env", ()):
            if SECRET.search(variable["name"]) and "value" in variable:
                found.append("a secret by value")
        if "ray" in container["name"]:
            found += _memory(spec, container)
        if container["image"].endswith(":latest") or ":" not in container["image"]:
            found.append("an image without a version")
    if not spec.get("securityContext", {}).get("runAsNonRoot"):
        found.append("root")
    if spec.get("securityContext", {}).get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("seccomp")
    if any("hostPath" in volume for volume in spec.get("volumes", ())):
        found.append("a directory of the node")
    if any("emptyDir" in volume and volume["name"] != "shm" for volume in spec.get("volumes", ())):
        found.append("a directory that ends with the pod")
    return found


def _memory(spec: Object, container: Object) -> list[str]:
    shm = [volume["emptyDir"] for volume in spec.get("volumes", ()) if volume["name"] == "shm"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", ())}
    if not shm or shm[0].get("medium") != "Memory" or mounted.get("shm") != "/dev/shm":
        return ["64 MB of shared memory"]
    limit = size(container.get("resources", {}).get("limits", {}).get("memory", "0Mi"))
    return [] if size(shm[0].get("sizeLimit", "9999Ti")) < limit else ["shared memory fills the pod"]


def size(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


def _role(one: Object) -> list[str]:
    found = []
    for rule in one["rules"]:
        if "*" in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]:
            found.append("a right to everything")
        if {"secrets", "pods/exec", "roles", "rolebindings"} & set(rule["resources"]):
            found.append("a right to become somebody else")
    return found


def _policy(one: Object) -> list[str]:
    """Who may send nothing but what stands here must still look up names, by a policy of the same pods."""
    spec = one["spec"]
    if not spec.get("podSelector"):
        return ["a policy of all pods of the namespace"]
    if any(not rule for rule in [*spec.get("ingress", ()), *spec.get("egress", ())]):
        return ["a rule that lets all through"]
    return []


def _claim(one: Object) -> list[str]:
    return [] if one["spec"]["accessModes"] == ["ReadWriteMany"] else ["a claim of one node"]


def _account(one: Object) -> list[str]:
    return ["a token for each pod"] if one.get("automountServiceAccountToken", True) else []


def _namespace(one: Object) -> list[str]:
    labels = one["metadata"].get("labels", {})
    return [] if labels.get("pod-security.kubernetes.io/enforce") == "restricted" else ["any pod is let in"]


def _never(one: Object) -> list[str]:
    return ["a secret in a repository"]


_CHECKS = {
    "RayJob": _job,
    "RayCluster": lambda one: _cluster(one["spec"]),
    "Role": _role,
    "NetworkPolicy": _policy,
    "PersistentVolumeClaim": _claim,
    "ServiceAccount": _account,
    "Namespace": _namespace,
    "Secret": _never,
}
