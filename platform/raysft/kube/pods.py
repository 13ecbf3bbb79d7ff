"""Pod templates of a run: what head, workers and data tasks ask for, and why. Requests are limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from raysft.kube.sent_by import SENT_BY, sent_by
from raysft.kube.settings import KubernetesSettings
from raysft.planner.devices import GIB
from raysft.planner.host import gib, host_memory
from raysft.planner.memory import predict
from raysft.planner.tasks import export_memory
from raysft.recipe.facts import ModelShape
from raysft.recipe.schema import Recipe

RAY_BYTES = 2 * GIB
"""Ray's own processes in a pod, the fork server among them."""
OBJECT_STORE_BYTES = 2 * GIB
"""Ray's shared memory in a pod: blocks of records and numbers, no tensors of training."""
GPU_PROCESS_BYTES = 4 * GIB
"""A worker's libraries and its CUDA context, in host memory."""
CPU_PROCESS_BYTES = 3 * GIB // 2
SHM_PER_WORKER_BYTES = GIB
"""Buffers of NCCL and gloo between the workers of a node."""
DRAIN_S, SPOT_DRAIN_S = 30, 90
"""From the notice that a node is taken away to its end a worker has this long to commit."""
STOP_GRACE_S = 600
"""From `raysft jobs stop` to the end of a job: the run commits. Ray's default is 3."""
IDLE_S = 120
"""A pod that nobody uses goes after this long, where pods come and go."""
HEAD = {"cpu": "2", "memory": "8Gi"}
RECIPE_PATH = "/etc/raysft/recipe.yaml"

_UNPRIVILEGED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_HEALTH = {  # a node that is gone is noticed within 4 x (1 + 1) s, not after a minute
    "RAY_health_check_initial_delay_ms": "10000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}


@dataclass(frozen=True)
class WorkerPods:
    """How many pods, and what each asks for."""

    pods: int
    workers: int
    """In each."""
    cpus: int
    memory_bytes: int
    shm_bytes: int
    why: str
    """Where the memory goes."""


def worker_pods(recipe: Recipe, shape: ModelShape, settings: KubernetesSettings) -> WorkerPods:
    """Workers dealt to pods of one node each, and the memory that the fullest needs in its whole life."""
    total = recipe.cluster.workers
    pods = math.ceil(total / min(settings.workers_per_node, total))
    return sized_pods(recipe, shape, pods, math.ceil(total / pods))


def sized_pods(recipe: Recipe, shape: ModelShape, pods: int, each: int) -> WorkerPods:
    """So many pods with so many workers of the recipe in each, and what one of them asks for."""
    shm = OBJECT_STORE_BYTES + each * SHM_PER_WORKER_BYTES
    if recipe.cluster.gpus_per_worker:
        host = host_memory(recipe, shape)
        of_worker, process = host.total, GPU_PROCESS_BYTES
        what = "copies of saves and offloaded state"
    else:
        of_worker, process, what = predict(recipe, shape, is_gpu=False).total, CPU_PROCESS_BYTES, "training"
    training, export = each * (of_worker + process), export_memory(recipe, shape) + process
    why = f"{each} x {gib(of_worker)} for {what}, {each} x {gib(process)} of libraries"
    if export > training:
        why = f"{gib(export)} for the export after the training"
    memory = math.ceil((max(training, export) + RAY_BYTES + shm) / GIB) * GIB
    why += f", {gib(RAY_BYTES)} for Ray, {gib(shm)} of /dev/shm"
    return WorkerPods(pods, each, each * recipe.cluster.cpus_per_worker + 1, memory, shm, why)


def head_group(settings: KubernetesSettings, recipe_config: str) -> dict[str, Any]:
    """The head: the driver runs there, and nothing else. recipe_config: name of the ConfigMap with the recipe."""
    mounts = [{"name": "recipe", "mountPath": RECIPE_PATH.rpartition("/")[0], "readOnly": True}]
    volumes = [{"name": "recipe", "configMap": {"name": recipe_config}}]
    environment = {**_HEALTH, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S), SENT_BY: sent_by()}
    pod = _pod(settings, "ray-head", dict(HEAD), OBJECT_STORE_BYTES, environment=environment)
    pod["spec"]["containers"][0]["volumeMounts"] += mounts
    pod["spec"]["volumes"] += volumes
    if settings.head_node_selector:
        pod["spec"]["nodeSelector"] = dict(settings.head_node_selector)
    if settings.autoscale:
        pod["spec"]["restartPolicy"] = "Never"  # else Ray's autoscaler meets an old pod as another node
        pod["spec"].pop("serviceAccountName", None)  # the operator makes one, with the rights of the autoscaler
    if settings.head_service_account:
        pod["spec"]["serviceAccountName"] = settings.head_service_account
    pod["spec"]["automountServiceAccountToken"] = bool(settings.autoscale or settings.head_service_account)
    return {
        "rayStartParams": {
            "num-cpus": "0",
            "dashboard-host": "0.0.0.0",
            "object-store-memory": str(OBJECT_STORE_BYTES),
        },
        "template": pod,
    }


def worker_group(recipe: Recipe, sized: WorkerPods, settings: KubernetesSettings) -> dict[str, Any]:
    """The pods that train: as many as the run has from its first to its last step, or as it asks for."""
    gpus = sized.workers * recipe.cluster.gpus_per_worker
    resources = {"cpu": str(sized.cpus), "memory": f"{sized.memory_bytes // GIB}Gi"}
    parameters = {"num-cpus": str(sized.cpus), "object-store-memory": str(OBJECT_STORE_BYTES)}
    if gpus:
        resources[settings.gpu_resource] = str(gpus)
        parameters["num-gpus"] = str(gpus)
    least = math.ceil((recipe.cluster.min_workers or recipe.cluster.workers) / sized.workers)
    group = _group("workers", sized.pods, min(least, sized.pods), now=sized.pods)
    if settings.autoscale:
        group = _group("workers", sized.pods, 0, now=0)
    return group | {
        "rayStartParams": parameters,
        "template": _worker_pod(settings, resources, sized.shm_bytes, {"raysft.io/memory": sized.why}),
    }


def data_group(settings: KubernetesSettings) -> dict[str, Any]:
    """One pod of CPUs that makes the token store. A task holds a block of records: 2 GiB for each CPU are ample."""
    shm = OBJECT_STORE_BYTES * 2
    memory = settings.prepare_cpus * 2 * GIB + RAY_BYTES + shm
    resources = {"cpu": str(settings.prepare_cpus), "memory": f"{memory // GIB}Gi"}
    parameters = {"num-cpus": str(settings.prepare_cpus), "object-store-memory": str(shm)}
    return _group("data", 1, 1, now=1) | {
        "rayStartParams": parameters,
        "template": _pod(settings, "ray-worker", resources, shm),
    }


def autoscaler() -> dict[str, Any]:
    """What a RayCluster says of its autoscaler, a container beside the head. A pod that idles goes after IDLE_S."""
    resources = {"cpu": "500m", "memory": "1Gi"}
    return {
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": IDLE_S,
            "resources": {"requests": resources, "limits": dict(resources)},
            "securityContext": dict(_UNPRIVILEGED),
        },
    }


def _group(name: str, pods: int, least: int, *, now: int) -> dict[str, Any]:
    return {"groupName": name, "replicas": now, "minReplicas": least, "maxReplicas": pods}


def _worker_pod(
    settings: KubernetesSettings, resources: dict[str, str], shm_bytes: int, annotations: dict[str, str]
) -> dict[str, Any]:
    drain_s = SPOT_DRAIN_S if settings.spot else DRAIN_S
    environment = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(drain_s)}
    pod = _pod(settings, "ray-worker", resources, shm_bytes, environment=environment)
    pod["metadata"]["annotations"] = annotations | settings.annotations
    spec = pod["spec"]
    spec["restartPolicy"] = "Never"
    spec["terminationGracePeriodSeconds"] = drain_s + 30  # a pod that is killed while it drains loses its steps
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        spec["tolerations"] = [dict(one) for one in settings.tolerations]
    if settings.resource_claims:
        spec["resourceClaims"] = [dict(one) for one in settings.resource_claims]
        spec["containers"][0]["resources"]["claims"] = [{"name": one["name"]} for one in settings.resource_claims]
    return pod


def _pod(
    settings: KubernetesSettings,
    container: str,
    resources: dict[str, str],
    shm_bytes: int,
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A pod as the `restricted` Pod Security Standard wants it; shared memory is counted in its memory."""
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{math.ceil(shm_bytes / GIB)}Gi"}}
    ]
    if settings.claim:
        mounts.append({"name": "storage", "mountPath": settings.mount})
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": settings.claim}})
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": container,
                "image": settings.image,
                "env": [{"name": name, "value": value} for name, value in (environment or {}).items()],
                "envFrom": [{"secretRef": {"name": name}} for name in settings.secrets],
                "resources": {"requests": dict(resources), "limits": dict(resources)},
                "securityContext": dict(_UNPRIVILEGED),
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
    if settings.service_account:
        spec["serviceAccountName"] = settings.service_account
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.scheduler_name:
        spec["schedulerName"] = settings.scheduler_name
    return {"metadata": {"labels": dict(settings.labels)}, "spec": spec}
