"""What a cluster does that scales from nothing: nodes over time, demands given back, what is refused and when.

    python benchmarks/scaling.py [--only REGEX]

Ray's own autoscaler and its nodes for tests: real raylets here. CI runs tests/ray_local/test_autoscaling.py of it.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")

import ray  # noqa: E402
import yaml  # noqa: E402
from autoscaled import OwnAutoscalingCluster  # noqa: E402
from ray.util import placement_group_table  # noqa: E402
from small import make_recipe  # noqa: E402

from raysft.recipe.schema import Recipe  # noqa: E402

PATIENCE_S = 240


def recipe(folder: Path, name: str, **changes: Any) -> Path:
    """A short run's recipe, as a file."""
    fields = {"train__max_steps": 20, "parallel__zero": 0, "train__micro_batch_rows": 4} | changes
    made: Recipe = make_recipe(folder, name=name, **fields)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(made.model_dump(mode="json", exclude_defaults=True)))
    return file


class Seen:
    """How many nodes there were besides the head, and how many demands stand."""

    def __init__(self) -> None:
        self.nodes = [0]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Look no more: Ray ends a process that asks a head that is gone."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            count = sum(node["Alive"] for node in ray.nodes()) - 1
            if count != self.nodes[-1]:
                self.nodes.append(count)

    def demands(self) -> int:
        """Placement groups that are not removed."""
        return sum(group["state"] != "REMOVED" for group in placement_group_table().values())


def start(cluster: OwnAutoscalingCluster, verb: str, file: Path) -> subprocess.Popen[str]:
    """`raysft VERB FILE` on that cluster."""
    argv = [sys.executable, "-m", "raysft.cli", verb, str(file)]
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(argv, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def until(is_so: Callable[[], object]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() < began + PATIENCE_S
        time.sleep(0.1)
    return time.monotonic() - began


def fixed(cluster: OwnAutoscalingCluster, folder: Path, seen: Seen) -> str:
    """Two workers on no node."""
    done = start(cluster, "train", recipe(folder, "fixed"))
    said, _ = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 0, said[-2000:]
    after = until(lambda: seen.nodes[-1] == 0)
    assert max(seen.nodes) == 2, seen.nodes
    return f"nodes {seen.nodes}, empty {after:.0f} s after the end"


def prepare(cluster: OwnAutoscalingCluster, folder: Path, seen: Seen) -> str:
    """The token store alone: tasks of Ray Data wait for a node."""
    done = start(cluster, "prepare", recipe(folder, "prepared"))
    said, _ = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 0, said[-2000:]
    until(lambda: seen.nodes[-1] == 0)
    return f"nodes {seen.nodes}"


def killed(cluster: OwnAutoscalingCluster, folder: Path, seen: Seen) -> str:
    """A driver that waits is killed: Ray forgets what it had asked for."""
    cluster.allow(0)
    driver = start(cluster, "train", recipe(folder, "killed"))
    until(lambda: seen.demands() > 0 or driver.poll() is not None)
    said = "" if driver.poll() is None else driver.communicate()[0]
    if said:  # the autoscaler was quicker: nothing can ever hold it
        assert "can never hold this run" in said, said[-2000:]
        return "refused before it could be killed"
    driver.kill()
    return f"its demands were forgotten after {until(lambda: seen.demands() == 0):.1f} s"


def hold(seconds: float) -> None:
    """Work of somebody else."""
    time.sleep(seconds)


def interrupted(cluster: OwnAutoscalingCluster, folder: Path, seen: Seen) -> str:
    """Ctrl-C while nodes are awaited, that another driver's work holds."""
    holder = ray.remote(num_cpus=1)(hold).remote(PATIENCE_S)
    until(lambda: seen.nodes[-1] == 1)
    cluster.allow(1)
    driver = start(cluster, "train", recipe(folder, "interrupted", cluster__workers=2))
    until(lambda: seen.demands() > 0)
    time.sleep(3)
    assert driver.poll() is None, driver.communicate()[0][-2000:]
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, said[-2000:]
    left = until(lambda: seen.demands() == 0)
    ray.cancel(holder, force=True)
    return f"waited while others used the cluster; exit code 130, nothing asked for after {left:.1f} s"


def late(cluster: OwnAutoscalingCluster, folder: Path, seen: Seen) -> str:
    """The first autoscaler does not say what it can never bring: the wait ends."""
    done = start(cluster, "train", recipe(folder, "late", cluster={"workers": 3, "wait_for_nodes_s": 15}))
    said, _ = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 2, said[-2000:]
    assert "the nodes for this run have not come" in said, said[-2000:]
    return "exit code 2 after 15 s of waiting"


def fused(cluster: OwnAutoscalingCluster, folder: Path, seen: Seen) -> str:
    """Trials together in hosts, as many as nodes can come."""
    space = {"optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 3e-2}}
    tune = {"space": space, "searcher": "random", "scheduler": "none", "budget": {"trials": 4}, "executor": "fused"}
    more = {"method": {"kind": "lora", "rank": 4}, "data__eval_fraction": 0.1, "cluster__workers": 1}
    file = recipe(folder, "fused", tune=tune, evaluate={"every_steps": 10, "max_rows": 2}, **more)
    done = start(cluster, "tune", file)
    said, _ = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 0, said[-2000:]
    until(lambda: seen.nodes[-1] == 0)
    return f"nodes {seen.nodes}"


ROWS = {
    **{f"v2 {row.__name__}": (row, True) for row in (fixed, prepare, fused, interrupted, killed)},
    **{f"v1 {row.__name__}": (row, False) for row in (fixed, late)},
}


def main() -> int:
    """Each row on a cluster of its own. Returns how many failed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", metavar="REGEX")
    only, failed = options.parse_args().only, 0
    for name, (row, is_v2) in ROWS.items():
        if not re.search(only, name):
            continue
        with (
            tempfile.TemporaryDirectory() as folder,
            OwnAutoscalingCluster(2, autoscaler_v2=is_v2) as cluster,
        ):
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            began, seen = time.monotonic(), Seen()
            try:
                told = row(cluster, Path(folder), seen)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                told, failed = f"FAILED: {error}", failed + 1
            finally:
                seen.end()
                ray.shutdown()
            print(f"{name:15} {told} ({time.monotonic() - began:.0f} s)", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
