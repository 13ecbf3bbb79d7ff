"""A run on Kubernetes: its RayJobs applied one after the other, each followed to its end by its status."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raysft.errors import ClusterError, InterruptedRunError, PlatformError
from raysft.kube.rayjob import RUN
from raysft.observe.console import printable
from raysft.runtime.job_client import UnknownJobError
from raysft.runtime.kubernetes_client import Kubernetes, KubernetesAwayError
from raysft.submit.jobs import columns
from raysft.submit.patience import Patience
from raysft.submit.rayjob_state import State, check_owner, decide, state
from raysft.submit.waiting import reasons

logger = logging.getLogger(__name__)

Object = dict[str, Any]
_WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/{}/workloads"


@dataclass(frozen=True)
class Pace:
    """Seconds."""

    poll_s: float = 3.0
    """Between two questions for the status."""
    away_s: float = 900.0
    """An API server that is silent for so long is given up; the job is not."""
    why_s: float = 20.0
    """A job that does not run by then is asked why, and again each time that so long has passed."""
    gone_s: float = 300.0
    """A job that is replaced has this long to go, with its pods."""


DEFAULT = Pace()


def submit(cluster: Kubernetes, objects: Sequence[Object], *, detach: bool, pace: Pace | None = None) -> int:
    """Bring the RayJobs of a run to their ends, the last one being what was asked for. Returns its exit code.

    objects: the ConfigMap and the RayJobs, in their order. A job that is there already is followed, one that has
    succeeded and is only needed is passed over, one that has ended otherwise is replaced: the run resumes.
    detach: return when the first of them that has to run is sent. Raises RaysftError.
    """
    pace = pace or DEFAULT
    config, *jobs = objects
    for job in jobs:
        there = cluster.get(path_of(job))
        act = decide(there, job, is_asked_for=job is jobs[-1])
        name = job["metadata"]["name"]
        if act == "skip":
            logger.info("job          %s has succeeded already", name)
            continue
        if act == "follow":
            logger.info("job          %s is there already: it is followed", name)
        else:
            _send(cluster, config, job, there, pace)
        if detach:
            rest = "; then the same command sends the next" if job is not jobs[-1] else ""
            logger.info("detached     the same command follows %s%s", name, rest)
            return 0
        ended = follow(cluster, job, pace)
        if not ended.has_succeeded:
            return ended.exit_code
    return 0


def _send(cluster: Kubernetes, config: Object, job: Object, there: Object | None, pace: Pace) -> None:
    name = job["metadata"]["name"]
    old = cluster.get(path_of(config))
    if old is not None:
        check_owner(old, config)
    if there is not None:
        logger.info("job          %s has ended (%s): it is replaced, and the run goes on", name, state(there))
        cluster.delete(path_of(job))
        _wait_until_gone(cluster, job, pace)
    cluster.apply(path_of(config), config)
    cluster.apply(path_of(job), job)
    if there is None:
        logger.info("job          %s", name)


def _wait_until_gone(cluster: Kubernetes, job: Object, pace: Pace) -> None:
    """Its pods hold the GPUs that the next ones need."""
    deadline = time.monotonic() + pace.gone_s
    while cluster.get(path_of(job)) is not None:
        if time.monotonic() > deadline:
            raise PlatformError(
                f"the RayJob {job['metadata']['name']} does not go",
                got=f"it is there {pace.gone_s:.0f} s after it was deleted",
                expected="it and its pods gone",
                fix="`kubectl describe rayjob` shows its finalizers and events; is the operator running?",
            )
        time.sleep(pace.poll_s)


def follow(cluster: Kubernetes, job: Object, pace: Pace | None = None) -> State:
    """Say what becomes of a RayJob until it has ended, and why it does not run. Returns how it ended."""
    pace = pace or DEFAULT
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    patience = Patience(f"the Kubernetes API server {cluster.host}", pace.away_s)
    told, shown, asked = "", set[str](), time.monotonic()
    while True:
        try:
            there = cluster.get(path_of(job))
            patience.answered()
            if there is None:
                raise InterruptedRunError(
                    f"the RayJob {name} is gone",
                    got="it was deleted while it was followed",
                    expected="the job",
                    fix="the same command sends it again: the run goes on from its last commit",
                )
            now = state(there)
            if str(now) != told:
                told, asked = str(now), time.monotonic()
                logger.info("%-12s %s", name, now)
                if now.job == "RUNNING":
                    _tell_where(there, namespace)
            if now.has_ended:
                if not now.has_succeeded:
                    logger.info("%s", printable("\n".join(filter(None, (now.reason, now.message, now.advice)))))
                return now
            if now.job != "RUNNING" and time.monotonic() - asked > pace.why_s:
                asked = time.monotonic()
                for line in why(cluster, there, namespace):
                    if line not in shown:
                        shown.add(line)
                        logger.info("  %s", printable(line))
        except KubernetesAwayError as error:
            patience.silent(error)
        time.sleep(pace.poll_s)


def find(cluster: Kubernetes, namespace: str, name: str) -> Object:
    """A RayJob of raysft by its name. Raises UnknownJobError, which names those that there are."""
    jobs = {job["metadata"]["name"]: job for job in all_jobs(cluster, namespace)}
    if name not in jobs:
        raise UnknownJobError(
            f"the namespace {namespace} has no such RayJob of raysft",
            got=name,
            expected=f"one of {', '.join(jobs)}" if jobs else "a RayJob; there is none",
            fix="`raysft jobs list --on FILE` shows them",
        )
    return jobs[name]


def all_jobs(cluster: Kubernetes, namespace: str) -> list[Object]:
    """The RayJobs of raysft in a namespace, the oldest first."""
    found = cluster.items(
        f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs", labelSelector="app.kubernetes.io/name=raysft"
    )
    if found is None:
        raise cluster.unknown_kind("404 to a list of ray.io/v1 RayJobs")
    kind = {"apiVersion": "ray.io/v1", "kind": "RayJob"}  # a list leaves them out
    return sorted(({**kind, **job} for job in found), key=lambda job: str(job["metadata"].get("creationTimestamp")))


def stop(cluster: Kubernetes, namespace: str, name: str, pace: Pace | None = None) -> None:
    """Delete a RayJob and wait until it and its pods are gone. Raises ClusterError, PlatformError."""
    job = find(cluster, namespace, name)
    cluster.delete(path_of(job))
    _wait_until_gone(cluster, job, pace or DEFAULT)


def lines(cluster: Kubernetes, namespace: str) -> list[str]:
    """A table of RayJobs, and below each that does not run why that is so."""
    jobs = all_jobs(cluster, namespace)
    if not jobs:
        return [f"no RayJobs of raysft in the namespace {namespace}"]
    rows = [("JOB", "STATUS", "RUN", "CREATED (UTC)")]
    rows += [
        (
            job["metadata"]["name"],
            str(state(job)),
            (job["metadata"].get("annotations") or {}).get(RUN, "-"),
            str(job["metadata"].get("creationTimestamp", "")).rstrip("Z").replace("T", " "),
        )
        for job in jobs
    ]
    head, *table = columns(rows)
    found = [head]
    for line, job in zip(table, jobs, strict=True):
        now = state(job)
        waits = not now.has_ended and now.job != "RUNNING"
        found += [line, *(f"  {reason}" for reason in (why(cluster, job, namespace) if waits else ()))]
    return found


def why(cluster: Kubernetes, job: Object, namespace: str) -> list[str]:
    """Why a RayJob does not run, as its pods, events and queue have it. What may not be read is one of the lines."""
    core, refused = f"/api/v1/namespaces/{namespace}", []

    def items(path: str, **query: str) -> list[Object]:
        try:
            return cluster.items(path, **query) or []
        except KubernetesAwayError:
            raise
        except ClusterError as error:
            refused.append(f"cannot be asked why: {error.got}")
            return []

    pods = items(f"{core}/pods", labelSelector="ray.io/cluster")
    events = items(f"{core}/events", fieldSelector="type=Warning")
    workloads = items(_WORKLOADS.format(namespace)) if job["spec"].get("suspend") else []
    return reasons(job, pods, events, workloads) + refused


def _tell_where(job: Object, namespace: str) -> None:
    """Where the log of the run is: RayJobs show none."""
    status = job["status"]
    logger.info(
        "its log      kubectl -n %s port-forward svc/%s-head-svc 8265, then (with the token of Secret %s)\n"
        "             raysft jobs attach %s --address http://localhost:8265",
        namespace,
        status.get("rayClusterName"),
        status.get("rayClusterName"),
        status.get("jobId"),
    )


def path_of(one: Object) -> str:
    """Where an object of ours is on an API server."""
    metadata = one["metadata"]
    group = "/api/v1" if one["apiVersion"] == "v1" else f"/apis/{one['apiVersion']}"
    return f"{group}/namespaces/{metadata['namespace']}/{one['kind'].lower()}s/{metadata['name']}"
