"""A program for test_autoscaling.py: a run and a search on a cluster that begins and ends with its head alone.

python scaled_runs.py FOLDER      prints JSON of what was seen: {"refused": ..., "nodes": {...}, "trials": [...], ...}
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1", RAY_AUTH_MODE="disabled")

import injector
import ray
from autoscaled import IDLE_S, OwnAutoscalingCluster
from ray.util import placement_group_table
from small import make_recipe

from raysft.errors import ClusterError
from raysft.recipe.change import change
from raysft.run import attempts
from raysft.run.run import run_training
from raysft.search.command import open_study, search

LIMIT_S = 420
SPACE = {"optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 3e-2}}


def num_nodes() -> int:
    """Besides the head."""
    return sum(node["Alive"] for node in ray.nodes()) - 1


class Watched:
    """How many nodes there were while the block lasted, without repetitions."""

    def __init__(self, during: Callable[[int], None] = lambda count: None) -> None:
        self.seen: list[int] = [num_nodes()]
        self._during, self._over = during, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            if (count := num_nodes()) != self.seen[-1]:
                self.seen.append(count)
            self._during(count)

    def __enter__(self) -> list[int]:
        self._thread.start()
        return self.seen

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        if (count := num_nodes()) != self.seen[-1]:  # what came since its last look
            self.seen.append(count)


class Lines(logging.Handler):
    """What raysft says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def until_empty() -> float:
    """Seconds until all nodes are gone, which nobody asks for any more."""
    began = time.monotonic()
    while num_nodes():
        assert time.monotonic() < began + IDLE_S + 30
        time.sleep(0.1)
    return time.monotonic() - began


def demands() -> int:
    """Placement groups that are still asked for; Ray takes a moment to forget those of an actor that has ended."""
    deadline = time.monotonic() + 20
    while left := sum(group["state"] != "REMOVED" for group in placement_group_table().values()):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return left


def give_up(*_: object) -> None:
    """So that the cluster is ended, which a program that is killed would leave behind."""
    raise TimeoutError(f"not done within {LIMIT_S} s")


def main(folder: str) -> None:
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_S)
    attempts.LOOK_S = 0.5
    small: dict[str, Any] = {
        "train__max_steps": 24,
        "train__micro_batch_rows": 4,
        "checkpoint__every_steps": 6,
        "parallel__zero": 0,
        "method": {"kind": "lora", "rank": 4},
    }
    elastic = make_recipe(Path(folder), name="grown", cluster__workers={"min": 1, "max": 2}, **small)
    tune = {
        "space": SPACE,
        "searcher": "random",
        "scheduler": "none",
        "budget": {"trials": 3},
        "executor": "separate",
    }
    searched = make_recipe(
        Path(folder),
        **small | {"train__max_steps": 12, "cluster__workers": 1},
        name="searched",
        data__eval_fraction=0.1,
        evaluate={"every_steps": 6, "max_rows": 2},
        tune=tune,
    )
    run, found, lines = Path(folder) / "storage" / "runs" / "grown", {}, Lines()
    logging.getLogger("raysft").addHandler(lines)
    logging.getLogger("raysft").setLevel(logging.INFO)
    injector.plan(run, [{"point": "step", "step": 14, "rank": 0, "act": "hold"}])
    injector.arm()
    with OwnAutoscalingCluster(1) as cluster:
        ray.init(address=cluster.address, log_to_driver=False)
        began = time.monotonic()
        try:
            run_training(change(elastic, {"name": "large", "cluster": {"workers": 2}}))
        except ClusterError as error:
            found["refused"] = {"what": str(error), "after_s": time.monotonic() - began, "nodes": num_nodes()}

        def allow_more(count: int) -> None:
            """Once it trains; rank 0 is held until it has been asked to make room for a second rank."""
            if 0 in injector.happened(run):
                cluster.allow(2)
            if (run / "requests" / "resize.json").exists():
                time.sleep(2)  # until rank 0 has seen it
                injector.release(run, 0)

        with Watched(allow_more) as grown:
            found["steps"] = run_training(elastic).steps
            found["demands"] = [demands()]
            until_empty()
        with Watched() as tuned:
            search(searched)
            found["demands"].append(demands())
            until_empty()
        ray.shutdown()
    incidents = [json.loads(path.read_text()) for path in sorted(run.glob("incidents/*.json"))]
    assert searched.tune is not None
    found |= {
        "nodes": {"grown": grown, "tuned": tuned},
        "incidents": [(one["kind"], one["workers"]) for one in incidents],
        "last": len(list(sorted((run / "ledger").iterdir())[-1].iterdir())),
        "trials": [trial.state for trial in open_study(searched, searched.tune).trials()],
        "said": [line for line in lines.said if "waiting" in line or line.startswith("room")],
        "left": cluster.processes(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
