"""A program for test_tune_nodes.py: a search on three nodes of one CPU each, one of which dies inside a trial.

python tune_nodes.py FOLDER      prints JSON: {"trials": [[number, state]], "per_node": [...], "attempts": {...},
"passed_over": [...]}
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1")

import ray
from nodes_pipeline import actors_of
from ray.cluster_utils import Cluster
from small import make_recipe

from raysft.search.command import open_study, search
from raysft.train.commits.lineage import read_attempts

TRIALS, STEPS, EVERY = 7, 240, 20
SPACE = {"optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 3e-2}}


def main(folder: str) -> None:
    recipe = make_recipe(
        Path(folder),
        name="nodes",
        train__max_steps=STEPS,
        train__micro_batch_rows=8,
        parallel__zero=0,
        cluster__workers=1,
        data__eval_fraction=0.1,
        evaluate={"every_steps": 5, "max_rows": 2},
        checkpoint={"every_steps": EVERY, "keep_last": STEPS // EVERY},  # passed_over_in() looks at all of them
        tune={
            "space": SPACE,
            "searcher": "random",
            "scheduler": "none",
            "budget": {"trials": TRIALS},
            "concurrent": 3,
        },
    )
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    others = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    nodes = [node.node_id for node in (cluster.head_node, *others)]
    per_node = [0] * 3
    failed: list[str] = []
    searcher = threading.Thread(target=lambda: failed.append(attempt(recipe)), daemon=True)
    searcher.start()  # nodes are started and ended by the main thread only
    runs = Path(folder) / "storage" / "runs"
    deadline = time.monotonic() + 240
    while not (all(per_node) and len(list(runs.glob("nodes-*/checkpoints/*"))) >= 6):
        per_node = list(map(max, per_node, actors_of(nodes, "ImplicitFunc")))
        assert time.monotonic() < deadline, per_node
        time.sleep(0.05)
    cluster.remove_node(others[0], allow_graceful=False)
    searcher.join(400)
    ray.shutdown()
    cluster.shutdown()
    if failed != [""]:
        sys.exit(f"the search did not end well: {failed}")
    assert recipe.tune is not None
    trials = [(trial.number, trial.state) for trial in open_study(recipe, recipe.tune).trials()]
    attempts = {}
    for number, _ in trials:
        run = runs / f"nodes-{number}"
        attempts[number] = [
            (one.parent.step if one.parent else 0, steps_of(run / "metrics" / f"attempt-{one.number:04d}.jsonl"))
            for one in read_attempts(str(run))
        ]
    passed_over = [step for number, _ in trials for step in passed_over_in(runs / f"nodes-{number}")]
    print(json.dumps({"trials": trials, "per_node": per_node, "attempts": attempts, "passed_over": passed_over}))


def passed_over_in(run: Path) -> list[int]:
    """Steps that a run's first attempt had committed when its second began, beyond the one that this started from.

    A process outlives its node for a moment here: what it commits after that does not count.
    """
    if len(attempts := read_attempts(str(run))) < 2:
        return []
    began = (run / "attempts" / "attempt-0002.json").stat().st_mtime
    commits = {int(c.parent.name[5:]): c for c in run.glob("checkpoints/attempt-0001/step-*/commit.json")}
    start = attempts[1].parent.step if attempts[1].parent else 0
    return [step for step, commit in commits.items() if step > start and commit.stat().st_mtime < began]


def steps_of(file: Path) -> list[int]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line["step"] for line in lines if line["kind"] == "step"]


def attempt(recipe: object) -> str:
    """The search; what it died of."""
    try:
        search(recipe)  # type: ignore[arg-type]
    except Exception as error:
        return repr(error)
    return ""


if __name__ == "__main__":
    main(sys.argv[1])
