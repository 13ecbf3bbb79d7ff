"""A program for test_fork_servers.py: two jobs, one after the other, on two nodes of which one dies between them.

python two_jobs.py             prints JSON: what the workers of each job said, by node
python two_jobs.py ADDRESS NODE...   is a job: its workers on these nodes
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysft.runtime import fork_client

fork_client.MODULES = ("ray._private.workers.default_worker",)


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        head = cluster.head_node.node_id
        first = job(cluster.address, other.node_id, head)
        cluster.remove_node(other, allow_graceful=False)
        second = job(cluster.address, head)
    finally:
        cluster.shutdown()
    print(json.dumps([first, second]))


def job(address: str, *nodes: str) -> object:
    """What a driver of its own printed."""
    done = subprocess.run(
        [sys.executable, __file__, address, *nodes], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def drive(address: str, nodes: list[str]) -> None:
    ray.init(address=address, log_to_driver=False, runtime_env={"py_executable": fork_client.command()})
    actors = [
        ray.remote(Worker).options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    ]
    said = ray.get([actor.say.remote() for actor in actors], timeout=50)
    print(json.dumps({"job": ray.get_runtime_context().get_job_id(), "workers": said}))


class Worker:
    """Says where it is and who made it."""

    def say(self) -> dict[str, object]:
        context = ray.get_runtime_context()
        with open(f"/proc/{os.getppid()}/cmdline") as file:
            made_by = file.read().split("\0")[1]
        return {
            "job": context.get_job_id(),
            "node": context.get_node_id(),
            "server": os.getppid(),
            "made_by": os.path.basename(made_by),
        }


if __name__ == "__main__":
    drive(sys.argv[1], sys.argv[2:]) if sys.argv[1:] else main()
