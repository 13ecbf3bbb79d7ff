"""A program for test_nodes_pipeline.py: PP2 x DP2 on a cluster of three nodes with 2, 1 and 1 CPUs.

python nodes_pipeline.py FOLDER      prints JSON: {"alone": losses, "stages": losses, "workers": [per node]}
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1")

import ray
from ray.cluster_utils import Cluster
from small import make_recipe

from raysft.run.run import run_training
from raysft.train.history.records import read_metrics

STEPS = 8


def actors_of(nodes: list[str], name: str) -> list[int]:
    """Actors of a class so named that live on each node now, by Ray's table: no forked process tells its node."""
    actors = ray._private.state.actors().values()
    living = [
        actor["Address"]["NodeID"]
        for actor in actors
        if actor["State"] == "ALIVE" and name in actor["ActorClassName"]
    ]
    return [living.count(node) for node in nodes]


def main(folder: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    nodes = [node["NodeID"] for node in ray.nodes()]
    seen, over = [0] * len(nodes), threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            seen[:] = map(max, seen, actors_of(nodes, "RayTrainWorker"))

    answers: dict[str, list[float]] = {}
    for name, workers, layout in (("alone", 1, {"zero": 0}), ("stages", 4, {"pipeline": 2, "zero": 1})):
        if name == "stages":
            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
        recipe = make_recipe(
            Path(folder), name=name, parallel=layout, cluster__workers=workers, train__max_steps=STEPS
        )
        result = run_training(recipe)
        answers[name] = [line["loss"] for line in read_metrics(result.run) if line["kind"] == "step"]
    over.set()
    watcher.join()
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(answers | {"workers": seen}))


if __name__ == "__main__":
    main(sys.argv[1])
