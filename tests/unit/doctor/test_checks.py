"""Ten planted faults and some more, in the facts: each is found, says where, and tells how to mend it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raysft.doctor.checks import examine
from raysft.doctor.facts import (
    Disk,
    Facts,
    Finding,
    GpuHealth,
    LinkFacts,
    NodeFacts,
    OpenPort,
    Pending,
    Security,
    StorageTrial,
)

GIB = 2**30
VERSIONS = {
    **{"python": "3.11.7", "raysft": "0.1.0", "ray": "2.60.0", "torch": "2.13.0", "transformers": "5.23.0"},
    **{"deepspeed": "0.19.8", "peft": "0.21.0", "safetensors": "0.7.0", "pyarrow": "26.0.0"},
}
DASHBOARD = "http://10.0.0.1:8265/api/jobs/"


def node(number: int, **changes: Any) -> NodeFacts:
    """One of a cluster that is well."""
    well = NodeFacts(
        node=f"{number:012x}",
        address=f"10.0.0.{number}",
        versions=VERSIONS,
        clock_offset_s=0.01,
        clock_error_s=0.002,
        storage=StorageTrial("s3://runs", "", 300.0, 500.0, True),
        disks=[Disk("/tmp", 200 * GIB, 400 * GIB), Disk("/dev/shm", 8 * GIB, 8 * GIB)],
        ray_gpus=2,
        gpus=[GpuHealth(index, "NVIDIA H100", 0, False, False, 80 * GIB, GIB, 0) for index in range(2)],
        auth_mode="token",
    )
    return replace(well, **changes)


GUARDED = Security("token", True, True, [], "10.0.0.1:6379", OpenPort(DASHBOARD, 401))
WELL = Facts(
    [node(1), node(2)],
    links=LinkFacts(2, "", 0.4, 900.0),
    security=GUARDED,
    pending=[Pending({"CPU": 1.0}, 3, False)],
    recipe_problem="",
)


def second(**changes: Any) -> Facts:
    """A cluster of which the second node differs."""
    return replace(WELL, nodes=[node(1), node(2, **changes)])


def gpu(**changes: Any) -> list[GpuHealth]:
    good = GpuHealth(0, "NVIDIA H100", 0, False, False, 80 * GIB, GIB, 0)
    return [good, replace(good, index=1, **changes)]


def guarded(**changes: Any) -> Facts:
    return replace(WELL, security=replace(GUARDED, **changes))


def trial(**changes: Any) -> StorageTrial:
    return replace(StorageTrial("s3://runs", "", 300.0, 500.0, True), **changes)


def test_a_cluster_that_is_well_has_no_finding() -> None:
    found = examine(WELL)
    assert {one.verdict for one in found} == {"ok"}
    assert len({one.check for one in found}) == 13
    assert all(one.evidence and not one.fix for one in found)


PLANTED: list[tuple[str, Facts, str, str, list[str]]] = [
    (
        "a node with another torch",
        second(versions={**VERSIONS, "torch": "2.11.0"}),
        *("versions", "fail", ["torch 2.13.0", "2.11.0 on 10.0.0.2"]),
    ),
    (
        "a node without deepspeed",
        second(versions={**VERSIONS, "deepspeed": None}),
        *("versions", "fail", ["missing on 10.0.0.2"]),
    ),
    ("a clock that is 3 s ahead", second(clock_offset_s=3.0), "clocks", "fail", ["10.0.0.2 by +3.0 s"]),
    (
        "a storage that a node cannot write",
        second(storage=trial(error="[Errno 30] Read-only file system")),
        *("storage", "fail", ["10.0.0.2: [Errno 30] Read-only file system"]),
    ),
    (
        "a path that is each node's own",
        second(storage=trial(location="/data/runs", sees_marker=False)),
        *("storage", "fail", ["10.0.0.2 is not the one that this driver sees"]),
    ),
    ("a slow storage", second(storage=trial(write_mb_s=3.0)), "storage", "warn", ["written at 3 MB/s"]),
    (
        "a disk that is nearly full",
        second(disks=[Disk("/tmp", 2 * GIB, 400 * GIB)]),
        *("disks", "fail", ["/tmp on 10.0.0.2: 2.0 of 400.0 GiB free"]),
    ),
    (
        "a container's /dev/shm",
        second(disks=[Disk("/dev/shm", 64 << 20, 64 << 20)]),
        *("disks", "fail", ["/dev/shm on 10.0.0.2: 0.1 of 0.1 GiB"]),
    ),
    ("a GPU with ECC errors", second(gpus=gpu(ecc_errors=4)), "gpus", "fail", ["10.0.0.2: GPU 1", "4 uncorrected"]),
    ("a GPU whose rows wait", second(gpus=gpu(remap_pending=True)), "gpus", "fail", ["wait to be remapped"]),
    ("a GPU to be replaced", second(gpus=gpu(remap_failed=True)), "gpus", "fail", ["could not be remapped"]),
    ("a GPU that is gone", second(gpus=gpu()[:1]), "gpus", "fail", ["Ray counts 2 GPUs, the driver sees 1"]),
    (
        "somebody's memory on a GPU",
        second(gpus=gpu(used_bytes=40 * GIB, processes=1)),
        *("gpus", "warn", ["40.0 of 80.0 GiB are held by 1 process"]),
    ),
    (
        "nodes that do not reach each other",
        replace(WELL, links=LinkFacts(2, "10.0.0.2: connect timeout")),
        *("links", "fail", ["cannot form a gloo group: 10.0.0.2: connect timeout"]),
    ),
    ("a slow network", replace(WELL, links=LinkFacts(2, "", 0.5, 9.0)), "links", "warn", ["9 MB/s"]),
    (
        "a dashboard without a token",
        guarded(dashboard=OpenPort(DASHBOARD, 200)),
        *("ports", "fail", [DASHBOARD, "answers without a token"]),
    ),
    ("no token", guarded(auth_mode="", has_token=False), "token", "fail", ["10.0.0.1:6379 runs code"]),
    ("a token that is not sent", guarded(auth_mode=""), "token", "warn", ["RAY_AUTH_MODE is not set"]),
    ("a mode without its token", guarded(has_token=False), "token", "fail", ["there is none"]),
    ("a node that asks for no token", second(auth_mode=""), "token", "fail", ["not token on 10.0.0.2"]),
    ("no TLS", guarded(tls=False), "tls", "warn", ["in clear"]),
    ("TLS without files", guarded(tls_files_missing=["RAY_TLS_CA_CERT"]), "tls", "fail", ["RAY_TLS_CA_CERT"]),
    (
        "a demand that nothing can meet",
        replace(WELL, pending=[Pending({"CPU": 1.0, "GPU": 16.0}, 2, True)]),
        *("demands", "fail", ["2 x {CPU: 1, GPU: 16}"]),
    ),
    (
        "a recipe that is too large",
        replace(WELL, recipe_problem="the cluster can never hold this run: 2 node(s)"),
        *("recipe", "fail", ["can never hold"]),
    ),
    (
        "a torchvision for another torch",
        second(broken_imports={"torchvision": "RuntimeError: operator torchvision::nms does not exist"}),
        *("imports", "fail", ["torchvision cannot be imported on 10.0.0.2", "nms does not exist"]),
    ),
    (
        "a node without raysft",
        replace(
            WELL, nodes=[node(1)], links=None, unreachable={"10.0.0.2": "ModuleNotFoundError: No module named 'r'"}
        ),
        *("nodes", "fail", ["10.0.0.2: ModuleNotFoundError"]),
    ),
]


@pytest.mark.parametrize(
    ("facts", "check", "verdict", "evidence"), [p[1:] for p in PLANTED], ids=[p[0] for p in PLANTED]
)
def test_a_planted_fault_is_found_and_nothing_else(
    facts: Facts, check: str, verdict: str, evidence: list[str]
) -> None:
    found = [one for one in examine(facts) if one.verdict not in ("ok", "skip")]
    assert [(one.check, one.verdict) for one in found] == [(check, verdict)]
    assert all(part in found[0].evidence for part in evidence), found[0].evidence
    assert found[0].fix


@pytest.mark.parametrize(
    ("facts", "check"),
    [
        (replace(WELL, nodes=[node(1, gpus=None, ray_gpus=0)]), "gpus"),
        (replace(WELL, nodes=[node(1)], links=None), "links"),
        (second(storage=None), ""),  # the first node's counts
        (replace(WELL, nodes=[node(1, storage=None)]), "storage"),
        (replace(WELL, nodes=[node(1, clock_offset_s=None)]), "clocks"),
        (replace(WELL, security=None), "token"),
    ],
)
def test_what_is_not_here_is_said_and_is_no_fault(facts: Facts, check: str) -> None:
    found = examine(facts)
    assert {one.check for one in found if one.verdict == "skip"} == ({check} if check else set())
    assert not [one for one in found if one.verdict in ("fail", "warn")]


def test_gpus_without_nvml_are_told() -> None:
    (found,) = [one for one in examine(second(gpus=None)) if one.check == "gpus"]
    assert found.verdict == "ok", "the other node's were looked at"
    (found,) = [one for one in examine(replace(WELL, nodes=[node(1, gpus=None)])) if one.check == "gpus"]
    assert (found.verdict, "no NVML" in found.evidence) == ("warn", True)


@pytest.mark.parametrize("head", ["127.0.0.1:6379", "localhost:6379", "[::1]:6379"])
def test_a_cluster_of_this_machine_alone_needs_no_token(head: str) -> None:
    alone = Security("", False, False, [], head, OpenPort("http://127.0.0.1:8265/api/jobs/", 200))
    found: list[Finding] = examine(replace(WELL, nodes=[node(1, auth_mode="")], security=alone))
    assert not [one for one in found if one.verdict in ("fail", "warn")]


def test_a_clock_is_judged_by_what_the_measurement_can_tell() -> None:
    assert not [f for f in examine(second(clock_offset_s=1.4, clock_error_s=0.5)) if f.verdict == "fail"]
    assert [f for f in examine(second(clock_offset_s=-1.6, clock_error_s=0.5)) if f.verdict == "fail"]
