"""A program for test_rows.py: a run of one to two workers on two nodes, one of which dies and later comes back; and
a run of which one node's hardware fails.

python two_nodes.py RECIPE.yaml BROKEN.yaml     the first one's faults hold rank 1, then rank 0 of the second attempt
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")

import injector
import ray
from ray.cluster_utils import Cluster

from raysft.recipe.load import load_recipe
from raysft.run import attempts
from raysft.run.run import run_training
from raysft.run.rundir import run_location


def main(path: str, broken: str) -> None:
    recipe = load_recipe(path, [])
    run = Path(run_location(recipe))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    attempts.LOOK_S = 0.5
    injector.arm()

    done: list[str] = []
    trainer = threading.Thread(target=lambda: done.append(run_training(recipe).run), daemon=True)
    trainer.start()  # nodes are started by the main thread only
    until(lambda: 0 in injector.happened(run))
    cluster.remove_node(second, allow_graceful=False)
    until(lambda: 1 in injector.happened(run))
    cluster.add_node(num_cpus=1)
    until(lambda: (run / "requests" / "resize.json").exists())
    time.sleep(2)  # until rank 0 has seen it
    injector.release(run, 1)
    trainer.join(200)
    if done:
        done.append(run_training(load_recipe(broken, [])).run)
    ray.shutdown()
    cluster.shutdown()
    sys.exit(len(done) != 2)


def until(is_so: object, limit_s: float = 200) -> None:
    """Wait for it."""
    assert callable(is_so)
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:3])
