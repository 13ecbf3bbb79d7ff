"""Exactly once over kills: a worker is killed five times at random moments, with a store and with a stream.

    python benchmarks/data_kills.py [--kills 5] [--seed 0]

Prints, for both modes, how often it was killed, how many steps were replayed, and whether every epoch consumed the
multiset of sample ids of the data, read from the ledger of the tensors that were consumed. Exit code 1 when not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")

from small import make_recipe  # noqa: E402

from raysft.data.read.sources import expand, read_all  # noqa: E402
from raysft.run.run import run_training  # noqa: E402
from raysft.train.commits.lineage import read_attempts  # noqa: E402
from raysft.train.history.records import read_ledger, read_metrics  # noqa: E402

RECORDS = 3000


def kill_often(run: Path, kills: int, draw: random.Random, done: list[int], stop: threading.Event) -> None:
    """SIGKILL a random rank of the newest attempt after a random number of its steps."""
    for _ in range(kills):
        number = len(done) + 1
        wanted = draw.randint(1, 12)
        while not stop.wait(0.01):
            metrics = run / "metrics" / f"attempt-{number:04d}.jsonl"
            steps = metrics.read_text().count('"step_s"') if metrics.exists() else 0
            if steps >= wanted:
                ledger = run / "ledger" / f"attempt-{number:04d}" / f"rank-{draw.randint(0, 1):05d}.jsonl"
                os.kill(json.loads(ledger.read_text().splitlines()[0])["pid"], signal.SIGKILL)
                done.append(steps)
                break


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        common = {"train__rows_per_step": 16, "train__micro_batch_rows": 4, "checkpoint__every_steps": 5}
        common |= {"cluster": {"workers": 2, "max_failures": options.kills + 2}, "data__order": "windowed"}
        steps = 0
        for mode in ("prepared", "stream"):
            fields = {**common, "name": mode, "data__mode": mode, "train__epochs": 3}
            if mode == "stream":
                fields["train__max_steps"] = steps
            recipe = make_recipe(folder, count=RECORDS, **fields)
            run = Path(recipe.storage) / "runs" / mode
            killed: list[int] = []
            stop = threading.Event()
            draw = random.Random(f"{options.seed}-{mode}")
            killer = threading.Thread(target=kill_often, args=(run, options.kills, draw, killed, stop))
            killer.start()
            started = time.perf_counter()
            result = run_training(recipe)
            stop.set()
            killer.join()
            steps = result.steps
            expected = Counter(raw.sample_id for raw in read_all(expand(recipe.data.train)))
            ledger = read_ledger(result.run)
            consumed = [sample for step in ledger for sample in ledger[step]]
            epochs = [Counter(consumed[start : start + RECORDS]) for start in range(0, len(consumed), RECORDS)]
            replayed = sum(line["kind"] == "step" for line in _all_lines(run)) - steps
            exact = epochs == [expected] * 3 and len(killed) == options.kills
            failed |= not exact
            print(
                f"{mode}: killed {len(killed)} times, {len(read_attempts(str(run)))} attempts, {steps} steps, "
                f"{replayed} replayed; 3 epochs x {RECORDS} samples each exactly once: {exact} "
                f"({time.perf_counter() - started:.0f} s, last loss {read_metrics(str(run))[-1].get('loss')})",
                flush=True,
            )
    return int(failed)


def _all_lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for path in run.glob("metrics/*.jsonl") for line in path.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
