"""A run on Kubernetes, with the official client against an API server of the tests."""

from __future__ import annotations

import copy
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import FakeApi, api_server

from raysft.errors import ClusterError, ConflictError, InterruptedRunError, PlatformError, UserError
from raysft.kube import pods
from raysft.kube.rayjob import RECIPE_HASH, RUN, SPEC_HASH, STORAGE
from raysft.kube.settings import KubernetesSettings
from raysft.runtime.job_client import STOP_GRACE_S
from raysft.runtime.kubernetes_client import Kubernetes, KubernetesAwayError
from raysft.submit import rayjobs
from raysft.submit.rayjob_state import decide, state
from raysft.submit.rayjobs import Pace, path_of, submit

FAST = Pace(poll_s=0.01, away_s=10.0, why_s=0.02, gone_s=0.5)


def objects(run: str = "my-run", recipe: str = "1", spec: str = "1") -> list[dict[str, Any]]:
    """As raysft.kube makes them; of their contents what matters here."""
    notes = {RUN: run, STORAGE: "s3://a", RECIPE_HASH: recipe, SPEC_HASH: spec}
    metadata = {"namespace": "runs", "annotations": notes}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "name": "my-run-recipe"}, "data": {}}
    found = [config]
    for name, verb in (("my-run-prepare", "prepare"), ("my-run", "train")):
        spec = {"entrypoint": f"raysft {verb} /etc/raysft/recipe.yaml"}
        found.append(
            {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {**metadata, "name": name}, "spec": spec}
        )
    return copy.deepcopy(found)


def status(deployment: str, job: str = "", **more: str) -> dict[str, str]:
    return {"jobDeploymentStatus": deployment, "jobStatus": job, "rayClusterName": "my-run-x7k2p", **more}


DONE = [status("Initializing"), status("Running", "RUNNING"), status("Complete", "SUCCEEDED")]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with api_server(tmp_path) as fake:
        fake.lists = {"pods": [], "events": []}
        fake.statuses = {"my-run-prepare": list(DONE), "my-run": list(DONE)}
        yield fake


def sent(api: FakeApi) -> list[str]:
    return [path.rpartition("/")[2] for method, path, _ in api.asked if method == "PATCH"]


def test_first_the_store_then_the_training(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="raysft")
    assert submit(Kubernetes(), objects(), detach=False, pace=FAST) == 0
    assert sent(api) == ["my-run-recipe", "my-run-prepare", "my-run-recipe", "my-run"]
    query = next(query for method, _, query in api.asked if method == "PATCH")
    assert query == {"fieldManager": "raysft", "fieldValidation": "Strict"}
    told = [record.getMessage() for record in caplog.records]
    assert "my-run       Complete / SUCCEEDED" in told
    assert any("svc/my-run-x7k2p-head-svc 8265" in line for line in told)


def test_a_store_that_cannot_be_made_starts_no_gpu(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="raysft")
    api.statuses["my-run-prepare"] = [
        status(
            "Failed", "FAILED", reason="AppFailed", message="Job entrypoint command failed with exit code 2, last ..."
        )
    ]
    assert submit(Kubernetes(), objects(), detach=False, pace=FAST) == 2
    assert "my-run" not in api.named("RayJob")
    assert "failed with exit code 2" in caplog.text


def test_the_same_command_goes_on(api: FakeApi) -> None:
    """After a stop: the store is there, the training has ended; it is replaced when its pods are gone."""
    config, prepare, train = objects()
    for one in (config, prepare, train):
        api.objects[path_of(one)] = one
    api.statuses = {"my-run-prepare": [DONE[-1]], "my-run": [status("Failed", "STOPPED"), *DONE]}
    api.stays_s = 3
    assert submit(Kubernetes(), objects(), detach=False, pace=FAST) == 0
    assert sent(api) == ["my-run-recipe", "my-run"]
    deleted = [(path, query) for method, path, query in api.asked if method == "DELETE"]
    assert deleted == [(path_of(train), {"propagationPolicy": "Foreground"})]
    order = [method for method, path, _ in api.asked if path == path_of(train)]
    assert order.index("PATCH") - order.index("DELETE") > 3


def test_pods_that_do_not_go_are_not_met_by_others(api: FakeApi) -> None:
    _, _, train = objects()
    api.objects[path_of(train)] = train
    api.statuses["my-run"] = [status("Failed", "FAILED")]
    api.stays_s = 10_000
    with pytest.raises(PlatformError, match="does not go"):
        submit(Kubernetes(), [objects()[0], objects()[2]], detach=False, pace=FAST)
    assert sent(api) == []


def test_detached_is_one_job_further(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="raysft")
    assert submit(Kubernetes(), objects(), detach=True, pace=FAST) == 0
    assert sent(api) == ["my-run-recipe", "my-run-prepare"]
    assert "then the same command sends the next" in caplog.text
    api.statuses["my-run-prepare"] = [DONE[-1]]
    assert submit(Kubernetes(), objects(), detach=True, pace=FAST) == 0
    assert sent(api)[2:] == ["my-run-recipe", "my-run"]


def test_one_that_goes_on_is_followed_and_not_sent_again(api: FakeApi) -> None:
    _, _, train = objects()
    api.objects[path_of(train)] = train
    assert submit(Kubernetes(), [objects()[0], objects()[2]], detach=False, pace=FAST) == 0
    assert sent(api) == []


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (objects("my_run"), "the run my_run in s3://a"),
        ([{**one, "metadata": {**one["metadata"], "annotations": None}} for one in objects()], "not made by raysft"),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_name_of_another_is_not_taken(api: FakeApi, there: list[dict[str, Any]], told: str, number: int) -> None:
    """Also one that has ended; also a ConfigMap. Nothing is changed."""
    other = copy.deepcopy(there[number])
    api.objects[path_of(other)] = other
    with pytest.raises(ConflictError, match="is taken") as caught:
        submit(Kubernetes(), objects(), detach=False, pace=FAST)
    assert caught.value.got == told
    assert path_of(other).rpartition("/")[2] not in sent(api)
    assert "DELETE" not in [method for method, _, _ in api.asked]


def test_another_recipe_waits_for_the_end_of_this_one() -> None:
    there, wanted = objects()[2], objects(recipe="2")[2]
    there["status"] = status("Running", "RUNNING")
    with pytest.raises(ConflictError, match="goes on with another recipe"):
        decide(there, wanted, is_asked_for=True)
    with pytest.raises(ConflictError, match="goes on with another description of the cluster"):
        decide(there, objects(spec="2")[2], is_asked_for=True)
    assert decide(there, objects()[2], is_asked_for=True) == "follow"
    there["status"] = status("Complete", "SUCCEEDED")
    assert decide(there, wanted, is_asked_for=False) == "replace"
    assert decide(there, objects(spec="2")[2], is_asked_for=False) == "skip"
    assert decide(there, objects()[2], is_asked_for=True) == "replace"


@pytest.mark.parametrize(
    ("now", "has_ended", "code"),
    [
        (status("Complete", "SUCCEEDED"), True, 0),
        (status("Complete", "STOPPED"), True, 75),
        (status("Failed", "FAILED", message="... failed with exit code 75, last available logs"), True, 75),
        (status("Failed", "FAILED", message="Job entrypoint command failed with exit code -9. No logs"), True, 137),
        (status("Failed", "", reason="DeadlineExceeded", message="too long"), True, 3),
        (status("ValidationFailed", "", reason="ValidationFailed"), True, 3),
        (status("Retrying", "FAILED"), False, 3),
        (status("Running", "SUCCEEDED"), False, 3),
        ({}, False, 3),
    ],
)
def test_ends(now: dict[str, str], has_ended: bool, code: int) -> None:
    found = state({"status": now})
    assert (found.has_ended, found.exit_code) == (has_ended, code)


def test_an_image_without_raysft_is_told(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="raysft")
    said = "Job entrypoint command failed with exit code 127, last available logs: sh: 1: raysft: not found"
    api.statuses["my-run"] = [status("Failed", "FAILED", reason="AppFailed", message=said)]
    assert submit(Kubernetes(), [objects()[0], objects()[2]], detach=False, pace=FAST) == 127
    assert "raysft: not found" in caplog.text
    assert "cluster/Dockerfile" in caplog.text


def test_a_stop_gives_the_same_time_everywhere() -> None:
    head = pods.head_group(KubernetesSettings(image="raysft:1"), "recipe")["template"]["spec"]["containers"][0]
    variables = {one["name"]: one["value"] for one in head["env"]}
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == str(STOP_GRACE_S)


def pod(name: str, **fields: Any) -> dict[str, Any]:
    labels = {"ray.io/cluster": "my-run-x7k2p"}
    return {"kind": "Pod", "metadata": {"name": name, "labels": labels}, "status": fields}


def waiting(name: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"name": name, "state": {"waiting": {"reason": reason, "message": message}}}


NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_GPU}


@pytest.mark.parametrize(
    ("pods", "told"),
    [
        ([pod("w", conditions=[UNSCHEDULABLE])], f"pod w: Unschedulable: {NO_GPU}"),
        (
            [
                pod(
                    "h",
                    containerStatuses=[waiting("ray-head", "ImagePullBackOff", "Back-off pulling image raysft:9")],
                )
            ],
            "pod h: ray-head: ImagePullBackOff: Back-off pulling image raysft:9",
        ),
        (
            [
                pod(
                    "h",
                    containerStatuses=[waiting("ray-head", "CreateContainerConfigError", 'secret "s3" not found')],
                )
            ],
            'pod h: ray-head: CreateContainerConfigError: secret "s3" not found',
        ),
        (
            [pod("w", initContainerStatuses=[{"name": "wait-gcs-ready", "state": {"running": {}}}])],
            "pod w: its init container wait-gcs-ready has not ended",
        ),
        (
            [
                pod(
                    "w",
                    containerStatuses=[
                        waiting("ray-worker", "CrashLoopBackOff", "back-off")
                        | {"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
                    ],
                )
            ],
            "pod w: ray-worker: OOMKilled, exit code 137",
        ),
    ],
)
def test_why_pods_do_not_run(
    api: FakeApi, caplog: pytest.LogCaptureFixture, pods: list[dict[str, Any]], told: str
) -> None:
    caplog.set_level("INFO", logger="raysft")
    others = pod("other", conditions=[UNSCHEDULABLE | {"message": "of another cluster"}])
    others["metadata"]["labels"] = {"ray.io/cluster": "other"}
    api.lists["pods"] = [*pods, others]
    api.statuses["my-run"] = [*([status("Initializing")] * 12), DONE[-1]]
    assert submit(Kubernetes(), [objects()[0], objects()[2]], detach=False, pace=FAST) == 0
    assert [record.getMessage() for record in caplog.records].count(f"  {told}") == 1
    assert "of another cluster" not in caplog.text


def test_why_there_are_no_pods(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    """A quota shows in events alone; a queue in Kueue's workload; no operator in nothing at all."""
    caplog.set_level("INFO", logger="raysft")
    quota = "Failed to create worker Pod: exceeded quota: raysft, requested: requests.nvidia.com/gpu=8"
    of = {"kind": "RayCluster", "name": "my-run-x7k2p"}
    event = {"type": "Warning", "reason": "FailedToCreateWorkerPod", "message": quota, "involvedObject": of}
    api.lists["events"] = [event, event, event | {"involvedObject": {"kind": "Pod", "name": "x"}, "message": "of x"}]
    train = objects()[2]
    train["spec"]["suspend"] = True
    condition = {"type": "QuotaReserved", "status": "False", "message": "insufficient unused quota"}
    api.lists["workloads"] = [
        {
            "metadata": {"ownerReferences": [{"uid": uid}]},
            "spec": {"queueName": queue},
            "status": {"conditions": [condition]},
        }
        for uid, queue in (("uid-9", "theirs"), ("uid-2", "gpus"))
    ]
    api.statuses["my-run"] = [*([{}] * 8), *([status("Initializing")] * 8), DONE[-1]]
    assert submit(Kubernetes(), [objects()[0], train], detach=False, pace=FAST) == 0
    told = [record.getMessage() for record in caplog.records]
    assert told.count("  queue gpus: insufficient unused quota") == 1
    assert told.count(f"  RayCluster my-run-x7k2p: FailedToCreateWorkerPod: {quota}") == 1
    assert any("no operator has taken it up" in line for line in told)
    assert not any("theirs" in line or "of x" in line for line in told)
    assert "/apis/kueue.x-k8s.io/v1beta2/namespaces/runs/workloads" in [path for _, path, _ in api.asked]


def test_a_server_that_is_away_ends_nothing(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="raysft")
    api.statuses["my-run"] = [status("Running", "RUNNING")] * 10_000

    def until_told(words: str) -> None:
        deadline = time.monotonic() + 20
        while words not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)

    def leave() -> None:
        until_told("Running")
        api.is_away = True
        until_told("does not answer")
        api.is_away = False
        until_told("answers again after")
        api.statuses["my-run"] = [DONE[-1]]

    thread = threading.Thread(target=leave)
    thread.start()
    assert submit(Kubernetes(), [objects()[0], objects()[2]], detach=False, pace=FAST) == 0
    thread.join()
    assert caplog.text.count("does not answer") == 1
    assert caplog.text.count("answers again after") == 1


def test_one_that_is_deleted_is_told(api: FakeApi) -> None:
    api.statuses["my-run"] = [DONE[0]]

    def delete() -> None:
        while "my-run" not in api.named("RayJob"):
            time.sleep(0.01)
        time.sleep(0.1)
        api.objects.clear()

    thread = threading.Thread(target=delete)
    thread.start()
    with pytest.raises(InterruptedRunError, match="is gone"):
        submit(Kubernetes(), [objects()[0], objects()[2]], detach=False, pace=FAST)
    thread.join()


def test_without_kuberay(api: FakeApi) -> None:
    api.has_kuberay = False
    with pytest.raises(ClusterError, match="no such kind") as caught:
        submit(Kubernetes(), objects(), detach=False, pace=FAST)
    assert "install the KubeRay operator" in caught.value.fix
    with pytest.raises(ClusterError, match="no such kind"):
        rayjobs.lines(Kubernetes(), "runs")


@pytest.mark.parametrize(
    ("reply", "kind", "told"),
    [
        ((403, 'rayjobs.ray.io is forbidden: User "me"'), ClusterError, "ask for a Role"),
        ((400, 'strict decoding error: unknown field "spec.x"'), ClusterError, "KubeRay 1.7"),
        ((409, 'conflict with "kubectl"'), ConflictError, "use another name"),
        ((503, "overloaded"), KubernetesAwayError, "try again"),
        ((404, 'namespaces "runs" not found'), ClusterError, "create the namespace"),
    ],
)
def test_what_a_server_refuses(api: FakeApi, reply: tuple[int, str], kind: type[UserError], told: str) -> None:
    api.refuses = lambda method, path: reply if method == "PATCH" else None
    with pytest.raises(kind) as caught:
        submit(Kubernetes(), objects(), detach=False, pace=FAST)
    assert reply[1] in caught.value.got
    assert told in caught.value.fix


def test_a_login_that_has_run_out(api: FakeApi, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(config.read_text().replace("of-the-user", "of-yesterday"))
    with pytest.raises(ClusterError, match="refuses") as caught:
        submit(Kubernetes(), objects(), detach=False, pace=FAST)
    assert caught.value.got.startswith("401")
    assert "of-yesterday" not in str(caught.value)


def test_who_may_not_ask_why_follows_all_the_same(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="raysft")
    api.refuses = lambda method, path: (403, "pods is forbidden") if path.endswith("/pods") else None
    api.statuses["my-run"] = [*([status("Initializing")] * 12), DONE[-1]]
    assert submit(Kubernetes(), [objects()[0], objects()[2]], detach=False, pace=FAST) == 0
    assert caplog.text.count("pods is forbidden") == 1


def test_jobs_of_a_namespace(api: FakeApi) -> None:
    cluster = Kubernetes()
    assert rayjobs.lines(cluster, "runs") == ["no RayJobs of raysft in the namespace runs"]
    _, prepare, train = objects()
    for one, created in ((prepare, "2026-11-28T01:02:03Z"), (train, "2026-11-28T02:00:00Z")):
        one["metadata"] |= {"labels": {"app.kubernetes.io/name": "raysft"}, "creationTimestamp": created}
        api.objects[path_of(one)] = one
    stranger = copy.deepcopy(train)
    stranger["metadata"] |= {"name": "stranger", "labels": {}}
    api.objects[path_of(stranger)] = stranger
    api.lists["pods"] = [pod("w", conditions=[UNSCHEDULABLE])]
    api.statuses = {"my-run-prepare": [DONE[-1]], "my-run": [status("Initializing")]}
    assert [line.split() for line in rayjobs.lines(cluster, "runs")] == [
        ["JOB", "STATUS", "RUN", "CREATED", "(UTC)"],
        ["my-run-prepare", "Complete", "/", "SUCCEEDED", "my-run", "2026-11-28", "01:02:03"],
        ["my-run", "Initializing", "my-run", "2026-11-28", "02:00:00"],
        ["pod", "w:", "Unschedulable:", *NO_GPU.split()],
    ]
    assert rayjobs.find(cluster, "runs", "my-run")["kind"] == "RayJob"
    for name in ("stranger", "none"):
        with pytest.raises(ClusterError, match="no such RayJob") as caught:
            rayjobs.find(cluster, "runs", name)
        assert caught.value.expected == "one of my-run-prepare, my-run"
    api.stays_s = 2
    rayjobs.stop(cluster, "runs", "my-run", FAST)
    assert set(api.named("RayJob")) == {"my-run-prepare", "stranger"}


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(UserError, match="not installed") as caught:
        Kubernetes()
    assert "raysft[kubernetes]" in caught.value.fix


@pytest.mark.parametrize("text", [None, "", "{", "kind: Config\n"])
def test_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if text is not None:
        (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(ClusterError, match="no Kubernetes cluster is configured"):
        Kubernetes()
