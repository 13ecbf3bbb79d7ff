"""Ray's exceptions, made as Ray makes them, and the kind that each stands for."""

from __future__ import annotations

import traceback

import pytest
import torch
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import ControllerError, NCCLHangError, PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from raysft.errors import ModelError
from raysft.run.ray_failures import classify


def unhealthy(error: Exception) -> Exception:
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=error)


def group(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("...", dict(enumerate(failures)))


def died(text: str) -> RayActorError:
    return RayActorError(error_msg=f"The actor died unexpectedly before finishing this task.\n{text}")


KILLED = unhealthy(  # Ray's text names the OOM killer among the causes of any SIGKILL
    died(
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the "
        "process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the "
        "worker crashed unexpectedly due to SIGSEGV or another unexpected error."
    )
)
PEER = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5022")
BUG = ValueError("no such column")
GPU_MEMORY = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1 GiB is free."
)
NCCL_MEMORY = torch.distributed.DistBackendError(
    "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL "
    "version 2.28.9\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
    "Cuda failure 2 'out of memory'"
)
CUBLAS_MEMORY = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def wrapped(error: Exception) -> Exception:
    """As Ray Train hands on what a worker raised: its text is the traceback."""
    try:
        raise error  # the text of this line may say out of memory
    except type(error) as raised:
        return UserExceptionWithTraceback(raised, "".join(traceback.format_exception(raised)))


def by_task(error: Exception) -> Exception:
    return RayTaskError("run_train_fn", traceback.format_exception_only(error)[-1], error)


def told_by_raysft() -> ModelError:
    return ModelError("rows do not fit", got="CUDA out of memory. Tried ...", expected="room", fix="fewer rows")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (group(), "hung"),
        (NCCLHangError("ranks 3 and 5 wait in AllReduce", worker_failures={}), "hung"),
        (group(KILLED), "worker"),
        (group(unhealthy(ActorDiedError())), "worker"),
        (group(unhealthy(ActorUnavailableError("no answer", None))), "worker"),
        (group(PEER, KILLED), "worker"),
        (group(PEER, PEER), "worker"),
        (group(BUG, KILLED), "worker"),
        (group(BUG, PEER), "code"),
        (group(PEER, BUG), "code"),
        (group(BUG), "code"),
        (group(wrapped(BUG)), "code"),
        *((group(PEER, error), "memory") for error in (GPU_MEMORY, NCCL_MEMORY, CUBLAS_MEMORY, MemoryError())),
        *((group(PEER, wrapped(error)), "memory") for error in (GPU_MEMORY, NCCL_MEMORY, CUBLAS_MEMORY)),
        (group(PEER, by_task(GPU_MEMORY)), "memory"),
        (group(PEER, told_by_raysft()), "code"),
        (group(PEER, wrapped(told_by_raysft())), "code"),
        (group(PEER, wrapped(PEER)), "worker"),
        (group(unhealthy(died("The actor died because its node has died. Node Id: 11ab"))), "node"),
        (group(KILLED, unhealthy(died("The actor died because its node has died."))), "node"),
        (group(unhealthy(NodeDiedError("Task failed: the node it was running on is dead"))), "node"),
        (group(unhealthy(OutOfMemoryError("Task was killed due to the node running low on memory."))), "memory"),
        (group(unhealthy(died("Worker killed: the node running low on memory"))), "memory"),
        (group(PEER, unhealthy(RayActorError(preempted=True))), "preempted"),
        (group(WorkerHealthCheckTimeoutError("slow")), "hung"),
        (PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"ab12": [0]})), "preempted"),
        (ControllerError(WorkerGroupStartupTimeoutError(2)), "start"),
        (ControllerError(WorkerGroupStartupFailedError("died in __init__")), "start"),
        (ControllerError(RuntimeError("?")), "controller"),
        (ActorDiedError(), "controller"),
        (died("class_name: TrainController"), "controller"),
        (died("class_name: RayTrainWorker"), "worker"),  # while the group was set up
        (ControllerError(died("class_name: RayTrainWorker")), "worker"),
        (ControllerError(died("class_name: RayTrainWorker ... its node has died")), "node"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    found, line = classify(error)
    assert found == kind
    assert line
    assert "\n" not in line


def test_the_rank_that_explains_the_others_is_named() -> None:
    assert classify(group(PEER, KILLED))[1].startswith("rank 1:")  # it is the one that is gone
    assert classify(group(PEER, BUG))[1] == "rank 1: ValueError: no such column"
    assert classify(group(BUG, PEER, KILLED, unhealthy(OutOfMemoryError("...low on memory"))))[1].startswith("rank 3")
