"""A program for test_prepare_nodes.py: prepare on a cluster of three nodes, one of which may die on the way.

python three_nodes.py FOLDER STORAGE calm|kill      prints JSON: {"store": ..., "work": [...], "shards_at_kill": n}
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")

import ray
from ray.cluster_utils import Cluster

from raysft.data.prepare import prepare as prepare_module
from raysft.data.prepare.prepare import prepare
from raysft.data.read import sources
from raysft.data.store import windows
from raysft.recipe.load import parse_recipe

RANGE_BYTES = 40_000


class Listener(logging.Handler):
    """Keeps what distribute.py says about nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.work: list[dict[str, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("pieces of work by node: "):
            self.work.append(json.loads(text.partition(": ")[2]))


def alive(expected: int) -> int:
    """Nodes that Ray counts. It may notice a death after the work is done."""
    deadline = time.monotonic() + 60
    while True:
        count = sum(node["Alive"] for node in ray.nodes())
        if count == expected or time.monotonic() > deadline:
            return count
        time.sleep(0.2)


def main(folder: str, storage: str, what: str) -> None:
    listener = Listener()
    logging.getLogger("raysft").setLevel(logging.DEBUG)
    logging.getLogger("raysft").addHandler(listener)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    others = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    prepare_module.plan_reads = lambda files: sources.plan_reads(files, RANGE_BYTES)
    prepare_module.WINDOW = windows.WINDOW = 1000
    recipe = parse_recipe(
        {
            "name": "nodes",
            "storage": storage,
            "model": {"source": "random", "config": {"model_type": "llama"}, "tokenizer": f"{folder}/tokenizer"},
            "data": {"train": f"{folder}/data.jsonl", "max_tokens": 1024, "rules": [{"rule": "exact_duplicates"}]},
        }
    )
    at_kill: list[int] = []

    def kill() -> None:
        """One node, as soon as some shards are done and others are not."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            done = len(list(Path(storage).glob("tokens/work-*/all/shard-*.json")))
            if done >= 8:
                cluster.remove_node(others[0], allow_graceful=False)
                at_kill.append(done)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill, daemon=True)
    if what == "kill":
        killer.start()
    prepared = prepare(recipe)
    if what == "kill":
        killer.join()
    nodes = alive(2 if at_kill else 3)
    total = len(sources.plan_reads(sources.expand(recipe.data.train), RANGE_BYTES))
    ray.shutdown()
    cluster.shutdown()
    found = {"store": prepared.train, "work": listener.work, "at_kill": at_kill, "shards": total, "alive": nodes}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:4])
