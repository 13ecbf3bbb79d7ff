"""From the SIGKILL of a worker to the next optimizer step: raysft, and plain Ray Train v2 with the same function.

    python benchmarks/recovery.py [--repeats 3]

Both train the same small model with 2 workers and lose rank 1 in the forward pass of step 9, after the commit of step
6. Plain: `FailureConfig(max_failures=3)`, nothing else set, as Ray's documentation has it. The two take turns in one
cluster, so their ratio means something on a busy machine; the seconds do not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")

import injector  # noqa: E402
import marks  # noqa: E402
import ray  # noqa: E402
from ray.train.v2.api.config import FailureConfig  # noqa: E402
from ray.train.v2.torch.torch_trainer import TorchTrainer  # noqa: E402
from small import make_recipe  # noqa: E402

from raysft.run import attempts  # noqa: E402
from raysft.run.run import run_training  # noqa: E402
from raysft.runtime.join import CONTROLLER  # noqa: E402

KILL = {"point": "forward", "step": 9, "rank": 1, "act": "kill", "commit": 6}
OURS = attempts.trainer


def plain_trainer(*parts: Any) -> Any:
    """The trainer of an attempt, with Ray's own retries, settings and starts of processes."""
    trainer = OURS(*parts)
    trainer.__class__ = TorchTrainer
    trainer.run_config.failure_config = FailureConfig(max_failures=3)
    runtime = trainer.run_config.worker_runtime_env
    variables = {name: value for name, value in runtime["env_vars"].items() if name not in CONTROLLER}
    trainer.run_config.worker_runtime_env = {"env_vars": variables}
    return trainer


def measure(directory: Path, name: str, *, plain: bool) -> dict[str, float]:
    """Seconds after the kill at which the next attempt began, and had done its first step."""
    attempts.trainer = plain_trainer if plain else OURS
    run = directory / "storage" / "runs" / name
    injector.plan(run, [KILL])
    run_training(
        make_recipe(
            directory,
            count=900,
            name=name,
            train__max_steps=14,
            checkpoint__every_steps=6,
            export__merged=False,
            export__adapter=False,
        )
    )
    assert marks.parents(run) == [0, 6]
    killed = injector.happened(run)[0]
    began = (run / "attempts" / "attempt-0002.json").stat().st_mtime
    lines = (run / "metrics" / "attempt-0002.jsonl").read_text().splitlines()
    stepped = next(line["at"] for line in map(json.loads, lines) if line["kind"] == "step")
    seen = marks.incidents(run)[0]["at"] - killed if not plain else float("nan")
    return {"seen": seen, "began": began - killed, "stepped": stepped - killed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    injector.arm()
    found: dict[str, list[dict[str, float]]] = {"plain": [], "raysft": []}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(repeats):
            for kind in found:
                result = measure(Path(directory), f"{kind}-{number}", plain=kind == "plain")
                print(f"{kind:8}", *(f"{name} {value:6.1f} s" for name, value in result.items()), flush=True)
                found[kind].append(result)
    ray.shutdown()
    middle: Callable[[str], float] = lambda kind: statistics.median(r["stepped"] for r in found[kind])  # noqa: E731
    print(f"kill -> next optimizer step, median of {repeats}: plain {middle('plain'):.1f} s, ", end="")
    print(f"raysft {middle('raysft'):.1f} s: {middle('plain') / middle('raysft'):.2f}x as fast")


if __name__ == "__main__":
    main()
