"""The fault matrix and the soak: every fault, what it cost, and whether the end is the one that was promised.

    python benchmarks/chaos.py [--only REGEX] [--minutes 0] [--seed 0] [--kills 100]

Rows train the same small model with 2 workers and meet one fault at an exact point; promised is (a): the same bits as
the undisturbed run, every sample once, nothing left behind. Loss of nodes, drivers and storage, and a second driver:
tests/faults. --minutes: a longer run that meets a random fault every 60 to 90 s. --kills: SIGKILL at so many random
points of a save. --damaged: so many files of a run, found by walking it, damaged at random. Exit code 1 when a
promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")

import injector  # noqa: E402
import marks  # noqa: E402
from run_dirs import DAMAGES, files_of  # noqa: E402
from small import make_recipe  # noqa: E402

from raysft.errors import RaysftError  # noqa: E402
from raysft.recipe.schema import Recipe  # noqa: E402
from raysft.run.run import run_training  # noqa: E402
from raysft.runtime.join import cluster  # noqa: E402
from raysft.train.history.account import read_account  # noqa: E402
from raysft.train.history.skips import Skip, add_skip  # noqa: E402

EVERY, EPOCH, STEPS = 6, 19, 38
EXPECTED_KIND = {"stop": "hung"}
"""Of the incident; all others are seen as a worker that died."""
EXPECTED_MARK = {"nan": ["transient"], "slow": ["straggler"], "later": [], "earlier": []}
"""Incidents of what ends no attempt, by act."""


def row(point: str, step: int, rank: int, act: str = "kill") -> dict[str, Any]:
    return {"point": point, "step": step, "rank": rank, "act": act, "commit": (step - 1) // EVERY * EVERY}


ROWS = {
    "kill at the start": row("start", 0, 0),
    "kill while data is read": row("data", 9, 0),
    "kill in a forward pass, rank 0": row("forward", 9, 0),
    "kill in a forward pass, rank 1": row("forward", 9, 1),
    "kill in the optimizer": row("optimizer", 9, 0),
    "kill in a checkpoint write, rank 0": row("write", 12, 0),
    "kill in a checkpoint write, rank 1": row("write", 12, 1),
    "kill before the commit record": row("commit", 12, 0),
    "kill at the end of an epoch": row("step", EPOCH, 1),
    "kill in an evaluation": row("eval", 10, 1),
    "kill after the last step": row("step", STEPS, 0),
    "abort (SIGABRT)": row("forward", 9, 1, "abort"),
    "worker gets SIGTERM": row("forward", 9, 1, "terminate"),
    "worker hangs (SIGSTOP)": row("forward", 9, 1, "stop"),
    "flipped bit in the newest commit": row("forward", 15, 0, "flip"),
    "truncated file in the newest commit": row("forward", 15, 0, "truncate"),
    "missing file in the newest commit": row("forward", 15, 0, "lose"),
    "commit record missing": row("forward", 15, 0, "unmanifest"),
}

PASSING_ROWS = {
    "transient NaN": row("forward", 9, 1, "nan"),
    "slow rank": row("forward", 9, 1, "slow"),
    "clock of rank 0 an hour later": row("data", 9, 0, "later"),
    "clock of rank 0 an hour earlier": row("data", 9, 0, "earlier"),
}
"""Nothing ends; the bits are those of the undisturbed run."""
GIVEN_UP = ("result.json", "report.html", "evaluation/after.json")
"""Files of a finished run without which it has not finished."""
POISON = "poisoned rows, NaN each time"


def recipe(directory: Path, name: str, **changes: Any) -> Recipe:
    return make_recipe(
        directory,
        count=900,
        name=name,
        data__eval_fraction=0.1,
        checkpoint__keep_last=3,
        method={"kind": "lora", "rank": 4, "dropout": 0.1},
        **{
            "train__epochs": 2,
            "checkpoint__every_steps": EVERY,
            "evaluate__every_steps": 10,
            "cluster": {"workers": 2, "hang_timeout_s": 20.0},
            **changes,
        },
    )


def check(calm: Path, run: Path, steps: int, epochs: int) -> str:
    """What marks.py finds wrong; empty: the promise of (a) is kept."""
    try:
        marks.assert_same_bits(calm, run)
        marks.assert_each_sample_once(run, steps=steps, epochs=epochs)
        marks.assert_nothing_left(run)
    except AssertionError as error:
        return " ".join(str(error).split())[:60] or "a mark is missing"
    return ""


def play(calm: Path, directory: Path, name: str, fault: dict[str, Any]) -> bool:
    """One row, printed."""
    run = calm.with_name(name.replace(" ", "-").replace(",", "").replace("(", "").replace(")", ""))
    injector.plan(run, [fault])
    try:
        result = run_training(recipe(directory, run.name))
        wrong = check(calm, run, result.steps, 2)
    except RaysftError as error:
        wrong = error.what
    struck = injector.happened(run).get(0)
    found, starts = marks.incidents(run), marks.parents(run)
    if struck is None or not found:
        wrong = wrong or "the fault did not strike"
        print(f"{name:38} (a)  {wrong}", flush=True)
        return False
    second = run / "metrics" / f"attempt-{len(starts):04d}.jsonl"
    times = [line["at"] for line in map(json.loads, second.read_text().splitlines()) if line["kind"] == "step"]
    back = f"{times[0] - struck:6.1f} s" if times else "  (none)"
    lost = max(0, fault["step"] - starts[-1])
    kind, expected = found[0]["kind"], EXPECTED_KIND.get(fault["act"], "worker")
    wrong = wrong or (f"seen as {kind}, not {expected}" if kind != expected else "")
    detected = found[0]["at"] - struck
    cost = f"lost {lost:2}  seen {detected:5.1f} s  back {back}"
    print(f"{name:38} (a)  {wrong or 'same bits':28} {kind:8} {cost}", flush=True)
    return not wrong


def play_passing(calm: Path, directory: Path, name: str, fault: dict[str, Any]) -> bool:
    """One of PASSING_ROWS, printed."""
    run = calm.with_name(name.replace(" ", "-"))
    injector.plan(run, [fault])
    started = time.monotonic()
    result = run_training(recipe(directory, run.name))
    wall_s = time.monotonic() - started
    wrong = check(calm, run, result.steps, 2)
    account = read_account(str(run))
    seen = [cost.incident.kind for cost in account.costs]
    if 0 not in injector.happened(run):
        wrong = wrong or "the fault did not strike"
    if seen != EXPECTED_MARK[fault["act"]]:
        wrong = wrong or f"seen as {seen}"
    if abs(account.wall_s - wall_s) > 1 + 0.01 * wall_s:
        wrong = wrong or f"{account.wall_s:.1f} s accounted for of {wall_s:.1f} s"
    print(f"{name:38} (a)  {wrong or 'same bits':28} {', '.join(seen) or '-':8}", flush=True)
    return not wrong


def play_poison(directory: Path) -> bool:
    """Rows that are NaN each time that they are read: that step is missing and listed, the rest is as planned."""
    clean, run = (directory / "storage" / "runs" / name for name in ("without-step-9", "poisoned"))
    add_skip(str(clean), Skip(8, "planned"))
    run_training(recipe(directory, clean.name))
    injector.plan(run, [row("data", 9, 1, "poison")])
    run_training(recipe(directory, run.name))
    wrong = ""
    try:
        marks.assert_same_bits(clean, run)
        marks.assert_nothing_left(run)
        listed = [(c.incident.kind, c.incident.step) for c in read_account(str(run)).costs]
        assert listed == [("skipped", 9)], f"listed: {listed}"
    except AssertionError as error:
        wrong = " ".join(str(error).split())[:60] or "a mark is missing"
    print(f"{POISON:38} (c)  {wrong or 'as without that step':28} skipped", flush=True)
    return not wrong


def play_damage(calm: Path, directory: Path, count: int, draw: random.Random) -> bool:
    """Files of a finished run, found by walking it, damaged at random: the run is finished again, to the same bits.

    What says that it finished is taken away, and its newest commit with it, so that the command has to train.
    """
    other = Path(run_training(recipe(directory, "other", seed=7)).run)
    kept = True
    names = [name for name in files_of(calm) if name not in GIVEN_UP and not name.startswith("export/")]
    kinds = draw.sample(sorted(DAMAGES), len(DAMAGES))
    for number in range(count):
        name, damage = draw.choice(names), kinds[number % len(kinds)]  # each kind before any comes again
        run = calm.with_name(f"damaged-{number}")
        shutil.copytree(calm, run)
        newest = max(run.glob("checkpoints/*/*/commit.json"), key=lambda path: path.parent.name)
        for gone in (newest.parent, run / "export"):
            shutil.rmtree(gone)
        for gone in GIVEN_UP:
            (run / gone).unlink()
        if (run / name).exists():
            DAMAGES[damage](run / name, other / name)
        wrong = ""
        try:
            run_training(recipe(directory, run.name))
            marks.assert_same_bits(calm, run)
        except RaysftError as error:
            is_told = name == "run.json" and run.name in str(error)
            wrong = "" if is_told else error.what
        except AssertionError as error:
            wrong = " ".join(str(error).split())[:60] or "other bits"
        except Exception as error:  # what must never come
            wrong = f"{type(error).__name__}: {error}"[:60]
        print(f"{damage:22} {name:58} (a)  {wrong or 'same bits, or told'}", flush=True)
        kept = kept and not wrong
        shutil.rmtree(run)
    return kept


def soak(directory: Path, minutes: float, seed: int) -> bool:
    """Random faults every 60 to 90 s. Prints goodput: time of the steps that count over all time.

    A commit every 3 s or so, a watchdog of 10 s: as one would set them where a fault strikes each minute.
    """
    draw = random.Random(seed)
    short = run_training(recipe(directory, "speed"))
    lines = (Path(short.run) / "metrics" / "attempt-0001.jsonl").read_text().splitlines()
    taken = sorted(line["step_s"] for line in map(json.loads, lines) if line["kind"] == "step")
    step_s = taken[len(taken) // 2]
    changes = {
        "train__epochs": max(2, round(minutes * 60 / step_s / EPOCH)),
        "checkpoint__every_steps": max(EVERY, round(3 / step_s)),
        "evaluate__every_steps": round(300 / step_s),
        "cluster": {"workers": 2, "hang_timeout_s": 10.0},
    }
    epochs = changes["train__epochs"]
    plain, disturbed = (recipe(directory, name, **changes) for name in ("soak-calm", "soak"))
    calm = run_training(plain)
    run, stop = Path(calm.run).with_name("soak"), threading.Event()
    thread = threading.Thread(target=strike_often, args=(run, draw, stop), daemon=True)
    started = time.time()
    thread.start()
    result = run_training(disturbed)
    wall = time.time() - started
    stop.set()
    wrong = check(Path(calm.run), run, result.steps, epochs)
    useful = sum(line["step_s"] for line in marks.read_metrics(str(run)) if line["kind"] == "step")
    account = read_account(str(run))
    for cost in account.costs:
        print(cost.incident.attempt, cost.incident.kind, cost.detected_after_s, cost.steps_lost, cost.back_after_s)
    print(" ".join(f"{name} {seconds:.0f} s" for name, seconds in account.seconds.items()))
    count = len(marks.incidents(run))
    print(f"soak: {wall / 60:.1f} min, {count} incidents, goodput {useful / wall:.1%}, {wrong or 'same bits'}")
    return not wrong


def strike_often(run: Path, draw: random.Random, stop: threading.Event) -> None:
    """Kill, hang or damage, at random."""
    while not stop.wait(draw.uniform(60, 90)):
        ledgers = sorted((run / "ledger").glob("attempt-*"))
        try:
            pid = json.loads((ledgers[-1] / f"rank-0000{draw.randint(0, 1)}.jsonl").read_text().splitlines()[0])[
                "pid"
            ]
            act = draw.choice(["kill", "kill", "kill", "stop", "damage"])
            if act == "damage":
                commits = sorted(run.glob("checkpoints/*/*/commit.json"), key=lambda path: path.stat().st_mtime)
                file = commits[-1].with_name("rank-00000.safetensors")
                data = bytearray(file.read_bytes())
                data[draw.randrange(len(data))] ^= 1
                file.write_bytes(bytes(data))
            os.kill(pid, signal.SIGSTOP if act == "stop" else signal.SIGKILL)
        except (OSError, IndexError, ValueError):
            continue  # between two attempts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name this regular expression finds")
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--damaged", type=int, default=20, help="files of a run that are damaged, each in a run")
    options = parser.parse_args()
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        if options.kills:
            program = HERE.parents[1] / "tests" / "faults" / "kill_in_save.py"
            argv = [sys.executable, str(program), f"{folder}/saves", str(options.kills), str(options.seed)]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            kept = subprocess.run(argv, env=environment, check=False).returncode == 0
        with cluster():  # as `raysft train` starts one
            injector.arm()
            undisturbed = run_training(recipe(directory, "calm"))
            assert undisturbed.steps == STEPS, f"the rows were placed in {STEPS} steps, not {undisturbed.steps}"
            calm = Path(undisturbed.run)
            for name, fault in ROWS.items():
                if re.search(options.only, name):
                    kept = play(calm, directory, name, fault) and kept
            for name, fault in PASSING_ROWS.items():
                if re.search(options.only, name):
                    kept = play_passing(calm, directory, name, fault) and kept
            if re.search(options.only, POISON):
                kept = play_poison(directory) and kept
            kept = play_damage(calm, directory, options.damaged, random.Random(options.seed)) and kept
            if options.minutes:
                kept = soak(directory, options.minutes, options.seed) and kept
    sys.exit(not kept)


if __name__ == "__main__":
    main()
