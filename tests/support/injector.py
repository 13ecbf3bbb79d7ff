"""Faults in training workers at exact points, for tests: a worker function that arms them and then trains.

A fault is {"point", "step", "rank", "act", "commit"}; each happens once in the life of a run. Points: start, data,
forward, optimizer, step (after it was counted), eval, write (a rank's file is written, its record is not), commit
(rank 0, before the commit record). step is 1-based: the step under way, or the one that a checkpoint is of. commit:
wait until this is the newest commit, so that the writer is at a known place. The act `hold` waits for release().
`nan` (at forward) spoils the losses of that pass alone. `poison` (at data) spoils the weights of a step's rows each
time that they are read, `slow` (at forward) makes each pass from that step on 0.2 s longer.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import ray.cloudpickle
import ray.train

from raysft.data.feed.collate import Feed
from raysft.engine.zero import ZeroEngine
from raysft.objectives.module import ObjectiveModule
from raysft.run import attempts
from raysft.train.commits import writer
from raysft.train.commits.layout import commit_directory, read_commits
from raysft.train.commits.lineage import lineage, read_attempts
from raysft.train.history.records import Records
from raysft.train.worker import train_worker


def plan(run: Path, faults: list[dict[str, Any]]) -> None:
    """Write down what shall happen to a run."""
    folder = run.parent.parent / "faults" / run.name
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(faults))


def release(run: Path, index: int) -> None:
    """Let a held rank go on."""
    (run.parent.parent / "faults" / run.name / f"{index}.go").touch()


def happened(run: Path) -> dict[int, float]:
    """{index of a fault: time it struck}."""
    folder = run.parent.parent / "faults" / run.name
    return {int(path.stem): float(path.read_text()) for path in sorted(folder.glob("[0-9]*.at"))}


def arm() -> None:
    """Have run_training() in this process start workers that obey plans. By value: they need not find this module."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    attempts.train_worker = worker


def worker(wire: dict[str, Any]) -> dict[str, Any]:
    """Arm the faults of this rank, then train."""
    run = Path(wire["run"])
    folder = run.parent.parent / "faults" / run.name
    rank = ray.train.get_context().get_world_rank()
    faults = json.loads((folder / "plan.json").read_text()) if folder.exists() else []
    now = {"step": 0, "nan": 0}
    ACTS["nan"] = lambda run: now.update(nan=1)

    def reach(point: str, step: int) -> None:
        for index, fault in enumerate(faults):
            if (fault["point"], fault["step"], fault["rank"]) == (point, step, rank):
                mine = folder / f"{os.getpid()}.tmp"
                mine.write_text(str(time.time()))
                try:
                    os.link(mine, folder / f"{index}.at")  # whole, or not at all: others look while it is written
                except FileExistsError:
                    continue
                while fault.get("commit", 0) > _committed(run):
                    time.sleep(0.01)
                if fault["act"] != "hold":
                    ACTS[fault["act"]](run)
                if fault["act"] in PASSING:
                    continue
                while not (folder / f"{index}.go").exists():
                    time.sleep(0.01)

    def lasting(act: str, step: int) -> bool:
        return any(f["act"] == act and f["rank"] == rank and f["step"] <= step for f in faults)

    def spoilt(module: Any, *args: Any, **named: Any) -> Any:
        reach("forward", now["step"])
        if lasting("slow", now["step"]):
            time.sleep(0.2)
        loss, now["nan"] = forward(module, *args, **named), now["nan"] - 1
        spoilt = {name: value * float("nan") for name, value in loss.sums.items()}
        return loss._replace(sums=spoilt) if now["nan"] == 0 else loss

    def poisoned(feed: Any, step: int) -> Any:
        reach("data", step + 1)
        batch = read(feed, step)
        if not any(f["act"] == "poison" and (f["rank"], f["step"]) == (rank, step + 1) for f in faults):
            return batch
        micro = tuple(dataclasses.replace(m, weights=m.weights * np.float32("nan")) for m in batch.micro_batches)
        return dataclasses.replace(batch, micro_batches=micro)

    def before(owner: Any, name: str, point: str, step: Callable[..., int]) -> None:
        old = owner.__dict__[name]

        def wrapped(*args: Any, **named: Any) -> Any:
            reach(point, step(*args, **named))
            return old(*args, **named)

        setattr(owner, name, wrapped)

    def counted(engine: Any, *args: Any, step: int, **named: Any) -> Any:
        now["step"] = step + 1
        return step_of(engine, *args, step=step, **named)

    step_of = ZeroEngine.train_step
    ZeroEngine.train_step = counted
    read, forward = Feed.step, ObjectiveModule.forward
    Feed.step, ObjectiveModule.forward = poisoned, spoilt
    before(deepspeed.DeepSpeedEngine, "step", "optimizer", lambda *args, **named: now["step"])
    before(ZeroEngine, "eval_step", "eval", lambda *args, **named: now["step"])
    before(Records, "step", "step", lambda records, info: info.state.step)
    before(writer, "commit_record", "commit", lambda state, files, facts: state.step)
    write = writer.write_slices

    def written(location: str, slices: Any, made_progress: Any) -> Any:
        entry = write(location, slices, made_progress)
        reach("write", int(Path(location).parent.name.removeprefix("step-")))
        return entry

    writer.write_slices = written
    reach("start", 0)
    return train_worker(wire)


def _committed(run: Path) -> int:
    chain = lineage(read_attempts(str(run)), read_commits(str(run)))
    return chain[0].step if chain else 0


def _kill(run: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _flip(run: Path) -> None:
    """One bit of the newest commit, then die."""
    file = _newest(run) / "rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(bytes(data))
    _kill(run)


def _lose(run: Path) -> None:
    """A file of the newest commit, then die."""
    (_newest(run) / "rank-00001.safetensors").unlink()
    _kill(run)


def _truncate(run: Path) -> None:
    """A file of the newest commit, then die."""
    file = _newest(run) / "rank-00001.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    _kill(run)


def _jump(seconds: float, run: Path) -> None:
    """The wall clock of this process jumps, for what asks the time module."""
    of_day, of_day_ns = time.time, time.time_ns
    time.time = lambda: of_day() + seconds
    time.time_ns = lambda: of_day_ns() + int(seconds * 1e9)


def _hog(run: Path) -> None:
    """Memory without end, until Ray's monitor ends this process."""
    held = []
    while True:
        held.append(bytearray(b"x") * (100 << 20))
        time.sleep(0.02)


def _unmanifest(run: Path) -> None:
    """The newest commit loses its record, then this process dies."""
    (_newest(run) / "commit.json").unlink()
    _kill(run)


def _newest(run: Path) -> Path:
    return Path(commit_directory(str(run), lineage(read_attempts(str(run)), read_commits(str(run)))[0]))


PASSING = ("nan", "poison", "slow", "later", "earlier")
"""After which the process goes on."""
ACTS: dict[str, Callable[[Path], None]] = {
    "kill": _kill,
    "abort": lambda run: os.abort(),
    "stop": lambda run: os.kill(os.getpid(), signal.SIGSTOP),
    "terminate": lambda run: os.kill(os.getpid(), signal.SIGTERM),
    "ecc": lambda run: (_ for _ in ()).throw(RuntimeError("CUDA error: uncorrectable ECC error encountered")),
    "raise": lambda run: (_ for _ in ()).throw(ValueError("injected")),
    "flip": _flip,
    "lose": _lose,
    "truncate": _truncate,
    "unmanifest": _unmanifest,
    "hog": _hog,
    "poison": lambda run: None,
    "slow": lambda run: None,
    "later": partial(_jump, 3600.0),
    "earlier": partial(_jump, -3600.0),
}
