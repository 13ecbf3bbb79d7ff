"""What must hold of a run after any fault, by code of its own: shared by the fault tests and the chaos benchmark."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from whole_state import tensors_of

from raysft.data.store.parts import TokenStore
from raysft.run.remote_tasks import newest_checkpoint
from raysft.train.history.records import read_ledger, read_metrics


def incidents(run: Path) -> list[dict[str, Any]]:
    """Records of ended attempts, in order."""
    return [incident for incident in _records(run) if "decision" in incident]


def passing(run: Path) -> list[dict[str, Any]]:
    """Records of what ended no attempt, in order."""
    return [incident for incident in _records(run) if "decision" not in incident]


def _records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((run / "incidents").glob("incident-*.json"))]


def parents(run: Path) -> list[int]:
    """The step that each attempt started from."""
    records = [json.loads(path.read_text()) for path in sorted((run / "attempts").glob("attempt-*.json"))]
    return [record["parent"]["step"] if record["parent"] else 0 for record in records]


def lost_steps(run: Path) -> list[int]:
    """Steps that each attempt but the last did, and the next one did again; [0] where there was one attempt."""
    files = sorted((run / "metrics").glob("attempt-*.jsonl"))
    reached = [max((line["step"] for line in _steps_of(file)), default=0) for file in files]
    return [max(0, last - start) for last, start in zip(reached, parents(run)[1:], strict=False)] or [0]


def _steps_of(file: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if line["kind"] == "step"]


def assert_same_bits(first: Path, second: Path) -> None:
    """Final weights and moments."""
    a, b = (tensors_of(newest_checkpoint(str(run))) for run in (first, second))
    assert a.keys() == b.keys()
    assert len(a) > 10
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def largest_difference(first: Path, second: Path) -> float:
    """Of the losses of each step, relative."""
    a, b = ({m["step"]: m["loss"] for m in read_metrics(str(run)) if m["kind"] == "step"} for run in (first, second))
    assert a.keys() == b.keys()
    assert len(a) > 10
    return max(abs(a[step] - b[step]) / abs(a[step]) for step in a)


def assert_each_sample_once(run: Path, *, steps: int, epochs: int) -> None:
    """In every epoch of the final lineage."""
    ledger = read_ledger(str(run))
    assert list(ledger) == list(range(1, steps + 1))
    fingerprint = json.loads((run / "run.json").read_text())["fingerprints"]["data"]  # not the held-out rows'
    store = TokenStore.open(str(run.parents[1] / "tokens" / fingerprint))
    samples = {int(i) for row in store.read_rows(range(store.num_rows)) for i in row.segment_fields["sample_id"]}
    assert len(samples) > 100
    per_epoch = steps // epochs
    for start in range(1, steps, per_epoch):
        counts = Counter(sample for step in range(start, start + per_epoch) for sample in ledger[step])
        assert set(counts) == samples
        assert set(counts.values()) == {1}


def assert_nothing_left(run: Path) -> None:
    """No process of any attempt, no temporary file, no lease, nothing of Ray's."""
    left_processes = [pid for pid in pids(run) if is_running(pid)]
    assert left_processes == []
    left = [str(path) for path in run.rglob("*") if "tmp" in path.name or path.name.startswith(".")]
    assert left == []
    assert not (run / "ray").exists()
    assert not (run / "driver").exists()


def pids(run: Path) -> list[int]:
    """Of every rank of every attempt."""
    ledgers = sorted((run / "ledger").rglob("rank-*.jsonl"))
    return [json.loads(ledger.read_text().splitlines()[0])["pid"] for ledger in ledgers]


def is_running(pid: int) -> bool:
    """And no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
