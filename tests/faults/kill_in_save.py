"""Kill a process that saves checkpoints, at random points, and look what a resume would find.

python kill_in_save.py FOLDER KILLS [SEED]      prints JSON; ends with 1 if a complete checkpoint was ever missing

Each child goes on from the newest checkpoint, as a restarted worker does, and tells its parent every commit that it
has been told of. The parent kills it with SIGKILL after a random time and then looks for itself.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from fakes import FakeGroup
from whole_state import Still, tensors_of

from raysft.engine.slices import whole
from raysft.train.commits.checkpoint import begin_attempt, find_latest, remove_orphans
from raysft.train.commits.writer import Retention, Writer
from raysft.train.state import TrainState

SHAPES = {"weight:a": (300, 400), "exp_avg:a": (300, 400), "exp_avg_sq:a": (300, 400), "weight:b": (7,)}


def save_for_ever(run: str, pipe: int) -> None:
    """The child."""
    attempt, found = begin_attempt(run, FakeGroup())
    writer = Writer(run, attempt, FakeGroup(), retention=Retention(2), facts={})
    step = found.state.step if found else 0
    while True:
        step += 1
        state = [whole(key, torch.full(shape, float(step))) for key, shape in SHAPES.items()]
        writer.save(Still(lambda state=state: iter(state)), TrainState(step))
        writer.finish()
        os.write(pipe, f"{step}\n".encode())


def kill_one(run: str, after_s: float) -> tuple[int, str]:
    """(the last step that the child was told is committed, what stood half done when it died)."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        save_for_ever(run, theirs)
        os._exit(1)
    os.close(theirs)
    told = ""
    if select.select([ours], [], [], 20)[0]:  # it is at work
        told = os.read(ours, 4096).decode()
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while piece := os.read(ours, 65536):
        told += piece.decode()
    os.close(ours)
    newest = max(Path(run, "checkpoints").glob("attempt-*"))
    states = [sorted(p.name for p in step.iterdir()) for step in sorted(newest.glob("step-*"))]
    torn = [names for names in states if "commit.json" not in names]
    parts = {".": "temporary", "rank-00000.safetensors": "tensors", "rank-00000.json": "record"}
    names = {parts["."] if name.startswith(".") else parts.get(name, name) for name in (torn[-1] if torn else [])}
    return max(map(int, told.split()), default=0), "+".join(sorted(names)) if torn else "between"


def main(folder: str, kills: str, seed: str = "0") -> None:
    run, draw = str(Path(folder, "runs", "killed")), random.Random(int(seed))
    torch.set_num_threads(1)
    known, missing, half_done = 0, 0, Counter[str]()
    for _ in range(int(kills)):
        last, state = kill_one(run, draw.uniform(0, 0.04))
        known, half_done[state] = max(known, last), half_done[state] + 1
        found = find_latest(run, FakeGroup())
        tensors = tensors_of(found) if found else {}
        whole = found is not None and all(
            torch.equal(tensors[key], torch.full(shape, float(found.state.step))) for key, shape in SHAPES.items()
        )
        missing += not (whole and found is not None and found.state.step >= known)
    remove_orphans(run)
    torn = [str(p) for p in Path(run, "checkpoints").glob("*/*") if not (p / "commit.json").exists()]
    print(json.dumps({"kills": int(kills), "steps": known, "missing": missing, "half_done": half_done, "left": torn}))
    sys.exit(bool(missing or torn))


if __name__ == "__main__":
    main(*sys.argv[1:])
