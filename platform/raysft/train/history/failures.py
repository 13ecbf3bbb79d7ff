"""What went wrong in an attempt, written down by the rank it happened to. Decides nothing."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from raysft import sealed, storage
from raysft.errors import RaysftError, StorageError, from_fields, to_fields
from raysft.train.commits.layout import own_record, run_mathematics
from raysft.train.history.paths import FAILURE, RunPaths
from raysft.train.state import Outcome


@dataclass(frozen=True)
class FailureRecord:
    """One exception in one rank. `certain`: it would happen again (a RaysftError, a failed set-up)."""

    attempt: int
    rank: int
    step: int
    kind: str
    what: str
    got: str = ""
    expected: str = ""
    fix: str = ""
    certain: bool = False
    out_of_memory: bool = False
    """An allocation failed: fewer rows in a pass may do."""
    hardware: bool = False
    """A device or a link of its node is broken: it would break again there."""
    node: str = ""
    """Where it ran, as Ray knows the node; empty: not known."""

    def to_error(self) -> RaysftError:
        """The error that was raised; of one from below raysft, what stands for it."""
        return from_fields(asdict(self))


_SHAPE: sealed.Shape = {
    **dict.fromkeys(("attempt", "rank", "step"), int),
    **dict.fromkeys(("kind", "what", "got", "expected", "fix"), str),
    "certain": bool,
}


def describe_failure(
    error: Exception, *, attempt: int, rank: int, step: int, certain: bool, node: str = ""
) -> FailureRecord:
    """An exception as a record. Errors below raysft are told by their type and text."""
    if isinstance(error, RaysftError):
        certain = not isinstance(error, StorageError)  # which may come back
        told = to_fields(error)
        texts = (told["kind"], told["what"], told["got"], told["expected"], told["fix"])
        return FailureRecord(attempt, rank, step, *texts, certain=certain, node=node)
    text = " ".join(str(error).split())[:500]
    what, memory, hardware = f"{type(error).__name__}: {text}", is_out_of_memory(error), is_of_hardware(error)
    return FailureRecord(
        attempt,
        rank,
        step,
        "TrainingError",
        what,
        certain=certain and not hardware,  # elsewhere it may do
        out_of_memory=memory,
        hardware=hardware,
        node=node,
    )


OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "_STATUS_ALLOC_FAILED",
    "Failed to CUDA calloc",
    "Failed to CUDA host alloc",
)
"""Texts of allocations that fail: torch's on every device, CUDA's own (NCCL passes it on), torch's on a CPU, those of
cuBLAS and its sisters (CUBLAS_STATUS_ALLOC_FAILED, CUSOLVER_..., CUDNN_...), NCCL's (alloc.h)."""


def is_out_of_memory(error: Exception) -> bool:
    """Is this an allocation that failed? torch has a class for it on CUDA only; its texts are the same everywhere."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)


HARDWARE = re.compile(
    r"uncorrectable (?:ECC|NVLink) error|hardware stack error|over nvlink or a hardware error"
    r"|CUDA-capable devices? ?(?:\(s\) )?(?:is/are|are) busy or unavailable|CUDA-capable device\(s\) is/are busy"
    r"|GPU is lost|fallen off the bus|\bXid\b",
    re.IGNORECASE,
)
"""How CUDA and NVML name what only another node can mend (CUDA runtime API: cudaErrorECCUncorrectable,
NvlinkUncorrectable, HardwareStackError, Contained, DevicesUnavailable). Illegal addresses and failed launches are not
among them: mostly they are the code's. Nor is NCCL's `remote process exited`: that is another rank's death."""


def is_of_hardware(error: Exception) -> bool:
    """Is this a broken device or link, by its text?"""
    return bool(HARDWARE.search(str(error)))


def write_failure(run: str, record: FailureRecord) -> None:
    """Keep the record beside the attempt's."""
    origin = {"mathematics": run_mathematics(run)}
    sealed.write(RunPaths(run).failure(record.attempt, record.rank), asdict(record) | origin)


def read_failures(run: str) -> list[FailureRecord]:
    """All records of a run, by attempt and rank."""
    root = RunPaths(run).room("failures")
    names = sealed.names(root, FAILURE)
    records = [own_record(run, storage.join(root, name), _SHAPE) for name in names]
    return [
        FailureRecord(
            **{name: record[name] for name in _SHAPE},
            out_of_memory=record.get("out_of_memory") is True,  # earlier versions did not say
            hardware=record.get("hardware") is True,
            node=node if isinstance(node := record.get("node"), str) else "",
        )
        for record in records
        if record is not None
    ]


def as_outcome(failure: FailureRecord) -> Outcome:
    """The end of a run by this failure."""
    return Outcome(status="failed", step=failure.step, reason=failure.what, error=to_fields(failure.to_error()))
