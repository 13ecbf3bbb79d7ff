"""`make bench-gsm8k DATA=train.jsonl`: train jobs/recipes/gsm8k.yaml; held-out loss as means of 25 steps."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raysft.train.history.records import read_metrics

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 25


def main(data: str) -> int:
    """Returns 0 when each window's mean is below the one before."""
    raysft = str(Path(sys.executable).with_name("raysft"))
    with tempfile.TemporaryDirectory() as scratch:
        columns = ["--column", "instruction=question", "--column", "output=answer"]
        tokenizer = [raysft, "tokenizer", "train", data, "--out", f"{scratch}/tokenizer", "--vocab-size", "16000"]
        subprocess.run([*tokenizer, *columns], check=True)
        started = time.perf_counter()
        recipe = str(ROOT / "jobs/recipes/gsm8k.yaml")
        sets = [f"data.train={data}", f"storage={scratch}/storage", f"model.tokenizer={scratch}/tokenizer"]
        subprocess.run([raysft, "train", recipe, *(word for s in sets for word in ("--set", s))], check=True)
        wall_s = time.perf_counter() - started
        metrics = read_metrics(f"{scratch}/storage/runs/gsm8k")
    held_out = {line["step"]: line["loss"] for line in metrics if line["kind"] == "eval"}
    speeds = sorted(line["tokens_per_s"] for line in metrics if line["kind"] == "step")
    means = []
    for start in range(0, 100, WINDOW):
        window = [loss for step, loss in held_out.items() if start < step <= start + WINDOW]
        means.append(sum(window) / len(window))
    print(f"held-out loss: {held_out[0]:.4f} before, {held_out[100]:.4f} after 100 steps")
    print("25-step means: " + ", ".join(f"{mean:.4f}" for mean in means))
    print(f"{speeds[len(speeds) // 2]:,.0f} tokens/s in the median step, {wall_s:.0f} s in all")
    return 0 if all(later < earlier for earlier, later in itertools.pairwise(means)) else 1


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1]).resolve())))
