"""Why a RayJob does not run: from its pods, events and queue, in lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Object = dict[str, Any]


def reasons(job: Object, pods: Sequence[Object], events: Sequence[Object], workloads: Sequence[Object]) -> list[str]:
    """The most telling first, each once. All of them as the API server has them, of one namespace."""
    status = job.get("status") or {}
    cluster = status.get("rayClusterName") or ""
    own = [pod for pod in pods if cluster and _labels(pod).get("ray.io/cluster") == cluster]
    names = {job["metadata"]["name"], cluster, *(pod["metadata"]["name"] for pod in own)} - {""}
    found = [*_of_queue(job, workloads)]
    for pod in own:
        found += _of_pod(pod)
    found += [
        f"{of['kind']} {of['name']}: {one.get('reason', '')}: {_line(one.get('message'))}"
        for one in sorted(events, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
        if one.get("type") == "Warning" and (of := one.get("involvedObject") or {}).get("name") in names
    ]
    if not status:
        found.append("no operator has taken it up: is KubeRay running, and watching this namespace?")
    if status.get("message") and status.get("jobStatus") in (None, ""):
        found.append(_line(status["message"]))
    return list(dict.fromkeys(found))


def _of_queue(job: Object, workloads: Sequence[Object]) -> Iterator[str]:
    """Kueue keeps a job suspended until there is a quota for it."""
    if not (job.get("spec") or {}).get("suspend"):
        return
    told = [
        f"queue {one.get('spec', {}).get('queueName', '')}: {_line(condition.get('message'))}"
        for one in workloads
        if any(owner.get("uid") == job["metadata"].get("uid") for owner in one["metadata"].get("ownerReferences", ()))
        for condition in one.get("status", {}).get("conditions", ())
        if condition.get("status") == "False" and condition.get("type") in ("QuotaReserved", "Admitted")
    ]
    yield from told[:1] or ["it is suspended, as by a queue that has not admitted it yet"]


def _of_pod(pod: Object) -> Iterator[str]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield f"pod {name}: {condition.get('reason', 'not scheduled')}: {_line(condition.get('message'))}"
    started = status.get("initContainerStatuses") or ()
    for container in (*started, *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            yield f"pod {name}: {container['name']}: {waiting['reason']}: {_line(waiting.get('message'))}"
        for moment in ("state", "lastState"):
            ended = (container.get(moment) or {}).get("terminated") or {}
            if ended and ended.get("exitCode"):
                why = f"{ended.get('reason', 'ended')}, exit code {ended['exitCode']}"
                yield f"pod {name}: {container['name']}: {why} {_line(ended.get('message'))}".rstrip()
    for container in started:
        if "running" in (container.get("state") or {}):
            yield f"pod {name}: its init container {container['name']} has not ended"


def _labels(one: Object) -> dict[str, str]:
    return one["metadata"].get("labels") or {}


def _line(text: object) -> str:
    return " ".join(str(text or "").split())[:400]
