"""Ray Train's exceptions as the kinds of failure.py: the one place that reads them. Decides nothing."""

from __future__ import annotations

from typing import Literal

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError

from raysft.data.on_ray import raised_in_task
from raysft.errors import RaysftError
from raysft.run.failure import Kind
from raysft.train.history.failures import is_out_of_memory

OUT_OF_MEMORY = ("running low on memory", "NODE_OUT_OF_MEMORY")
NODE_DIED = ("node has died", "node was terminated", "node is dead")
LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Read error",
    "NCCL communicator",
    "ncclRemoteError",
    "remote process exited",
)
"""What the other ranks raise when one has died: no error of theirs."""

WEIGHT: tuple[Kind | Literal["peer"], ...] = ("preempted", "memory", "node", "hung", "worker", "code", "peer")
"""Kinds of ends, what explains the others first. `peer`: a rank lost another, of which Ray may not know yet."""


def classify(error: Exception) -> tuple[Kind, str]:
    """(kind, one line) of what `fit()` raised."""
    if isinstance(error, PreemptionError):
        return "preempted", "a node is taken away"
    if isinstance(error, ControllerError):
        return _of_controller(error.controller_failure)
    if isinstance(error, WorkerGroupError) and not error.worker_failures:  # NCCLHangError: its text names the ranks
        return "hung", _line(error)
    if isinstance(error, WorkerGroupError):
        ends = {rank: _of_worker(failure) for rank, failure in error.worker_failures.items()}
        rank = min(ends, key=lambda rank: (WEIGHT.index(ends[rank]), rank))
        return _alone(ends[rank]), f"rank {rank}: {_line(error.worker_failures[rank])}"
    return _of_controller(error)


def _of_controller(error: Exception) -> tuple[Kind, str]:
    if isinstance(error, WorkerGroupStartupFailedError | WorkerGroupStartupTimeoutError):
        return "start", _line(error)
    if isinstance(error, RayActorError) and "RayTrainWorker" in str(error):  # it died while its group was set up
        return _alone(_of_worker(error)), _line(error)
    return "controller", _line(error)


def _of_worker(error: Exception) -> Kind | Literal["peer"]:
    if isinstance(error, WorkerHealthCheckTimeoutError):
        return "hung"
    if isinstance(error, WorkerHealthCheckFailedError):
        error = error.health_check_failure
    text = str(error)
    if isinstance(error, OutOfMemoryError):
        return "memory"
    if isinstance(error, NodeDiedError):
        return "node"
    if isinstance(error, RayActorError):
        if error.preempted:
            return "preempted"
        if any(sign in text for sign in OUT_OF_MEMORY):
            return "memory"
        return "node" if any(sign in text for sign in NODE_DIED) else "worker"
    if _lacks_memory(error):
        return "memory"
    return "peer" if any(sign in text for sign in LOST_PEER) else "code"


def _lacks_memory(error: Exception) -> bool:
    """Did an allocation fail in what a worker raised? Ray's text of it is its traceback: lines of code, which may
    speak of memory, too, are indented there. What raysft itself raises says that it would come again."""
    said = "\n".join(line for line in str(error).splitlines() if not line.startswith(" "))
    is_ours = isinstance(raised_in_task(error), RaysftError) or f"\n{RaysftError.__module__}." in f"\n{said}"
    return not is_ours and (isinstance(error, MemoryError) or is_out_of_memory(RuntimeError(said)))


def _alone(end: Kind | Literal["peer"]) -> Kind:
    """The kind, when no other rank's end explains it."""
    return "worker" if end == "peer" else end


def _line(error: Exception) -> str:
    if isinstance(error, WorkerHealthCheckFailedError):
        error = error.health_check_failure
    error = raised_in_task(error)  # without the traceback
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
