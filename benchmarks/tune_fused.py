"""`make bench-fused`: LoRA trials that train together on one base against the same trials one after the other.

    python benchmarks/tune_fused.py [--trials 8] [--steps 100] [--tokens 256] [--model 19m]
                                          [--parts workers,search]

A fresh Llama in fp32 (`19m`: that of `make bench-train`, 16k vocabulary; `4m`: that of jobs/recipes/tune.yaml, 4k),
one row of TOKENS tokens a step, trials that differ in learning rate, rank and alpha; a token store that is there
already; one thread.

workers   the trials' workers without Ray, in one process: alone (one after the other) or together. CPU-seconds of
          setting up and of the steps, apart; peak memory against that of a single trial
search    `raysft tune` on a Ray cluster with one CPU, executor separate (one warm worker for all trials) or fused:
          core-seconds that the trials reserved, start-up included (what `raysft tune report` calls their cost, and a
          budget counts), and CPU-seconds that the driver and all its descendants used, Ray's own included

CPU-seconds and ratios are comparable on a shared machine; wall time is printed and means little there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "support"), str(HERE.parent / "tests" / "parity")]

CONFIGS = {
    name: {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    }
    for name, vocabulary, hidden, inner, layers, heads in (
        ("19m", 16_000, 384, 1024, 7, 6),
        ("4m", 4_000, 256, 704, 4, 4),
    )
}
GOALS = {"steps": 1.0, "reserved": 0.6, "whole": 0.6, "peak": 2.0}


def recipe_of(folder: Path, options: argparse.Namespace, **changes: Any) -> Any:
    from small import make_recipe

    return make_recipe(
        folder,
        count=4000,
        **{
            "model__config": CONFIGS[options.model],
            "data__max_tokens": options.tokens,
            "method": {"kind": "lora"},
            "optimizer": {"learning_rate": 1e-3, "schedule": "constant"},
            "train": {"rows_per_step": 1, "micro_batch_rows": 1, "precision": "fp32", "max_steps": options.steps},
            "parallel": {"zero": 0},
            "cluster": {"workers": 1, "cpus_per_worker": 1},
            "checkpoint": {"every_steps": options.steps},
        }
        | changes,
    )


def points(count: int) -> list[dict[str, Any]]:
    return [
        {"optimizer.learning_rate": 10 ** (-4 + 2 * i / count), "method.rank": (4, 8, 16)[i % 3]}
        for i in range(count)
    ]


def search_recipe(folder: Path, options: argparse.Namespace, executor: str) -> Any:
    space = {
        "optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-5, "high": 1e-1},
        "method.rank": {"distribution": "choice", "values": [4, 8, 16]},
    }
    tune = {
        "space": space,
        "budget": {"trials": options.trials},
        "metrics": "train_loss",
        "scheduler": "none",
        "searcher": "random",
        "start": points(options.trials),
        "executor": executor,
        "concurrent": options.trials if executor == "fused" else 1,
    }
    return recipe_of(folder, options, name=f"{executor}-{time.time_ns()}", tune=tune)


def prepare_store(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from raysft.data.prepare.prepare import prepare
    from raysft.recipe.paths import with_absolute_paths
    from raysft.runtime.join import cluster

    with cluster():
        return {"store": prepare(with_absolute_paths(recipe_of(folder, options))).train}


def workers(folder: Path, options: argparse.Namespace, *, together: bool) -> dict[str, Any]:
    """All trials in this process: CPU-seconds until the last of them begins its steps, and from there on."""
    import torch
    from fused_cells import wire_of

    from raysft.search.in_process import _alone
    from raysft.search.space import apply
    from raysft.train import session
    from raysft.train.history.records import read_metrics
    from raysft.train.shared_trials import SharedTrials
    from raysft.train.worker import train_worker

    runs = folder / f"runs-{time.time_ns()}"
    base = recipe_of(folder, options)
    wires = [
        wire_of(
            {
                "recipe": apply(base, f"trial-{i}", point).model_dump(mode="json"),
                "run": str(runs / str(i)),
                "steps": options.steps,
            },
            options.store,
        )
        | {"eval_stores": {}}
        for i, point in enumerate(points(options.trials))
    ]
    _alone(base)
    began, ended = [], []
    train = session.train

    def timed(*arguments: Any, **more: Any) -> Any:
        began.append(time.process_time())
        try:
            return train(*arguments, **more)
        finally:
            ended.append(time.process_time())

    session.train = timed
    started, wall = time.process_time(), time.monotonic()
    if together:
        trials = SharedTrials(torch.device("cpu"))

        def work(number: int) -> None:
            with trials.member(number):
                trials.train(number, wires[number])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(wires))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        steps = max(ended) - max(began)
    else:
        for wire in wires:
            train_worker(wire)
        steps = sum(b - a for a, b in zip(began, ended, strict=True))
    whole = time.process_time() - started
    lines = [line for i in range(len(wires)) for line in read_metrics(str(runs / str(i))) if line["kind"] == "step"]
    return {
        "steps": steps,
        "set_up": whole - steps,
        "tokens": sum(line["tokens"] for line in lines),
        "first_losses": [line["loss"] for line in lines if line["step"] <= 20],
        "wall": time.monotonic() - wall,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def sample(used: dict[int, float], over: threading.Event) -> None:
    """CPU-seconds of this process and each one below it, Ray's and the dead ones included (unreaped)."""
    from data_pipeline import processes_below

    is_last = False
    while not is_last:
        is_last = over.wait(0.25)
        for pid in processes_below(os.getpid()):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            used[pid] = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def search(folder: Path, options: argparse.Namespace, executor: str) -> dict[str, Any]:
    import ray

    from raysft.search.command import open_study
    from raysft.search.command import search as run_search
    from raysft.search.sweep import spent_of

    recipe = search_recipe(folder, options, executor)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    used: dict[int, float] = {}
    over, wall = threading.Event(), time.monotonic()
    sampler = threading.Thread(target=sample, args=(used, over))
    sampler.start()
    run_search(recipe)
    over.set()
    sampler.join()
    trials = open_study(recipe, recipe.tune).trials()
    return {
        "reserved": sum(spent_of(trial).core_s for trial in trials),
        "whole": sum(used.values()),
        "processes": sorted((round(seconds, 1) for seconds in used.values() if seconds >= 1), reverse=True),
        "wall": time.monotonic() - wall,
        "states": [trial.state for trial in trials],
        "last_losses": [round(trial.values[0], 4) for trial in trials if trial.values],
    }


KINDS = {
    "prepare": prepare_store,
    "one": lambda folder, o: workers(folder, argparse.Namespace(**{**vars(o), "trials": 1}), together=False),
    "alone": lambda folder, o: workers(folder, o, together=False),
    "together": lambda folder, o: workers(folder, o, together=True),
    "separate": lambda folder, o: search(folder, o, "separate"),
    "fused": lambda folder, o: search(folder, o, "fused"),
}


def measured(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """In a fresh process; that of trials together as shared_host.py starts it."""
    from raysft.search.shared_host import ALLOCATOR_VARIABLES

    malloc = ALLOCATOR_VARIABLES if kind == "together" else {}
    arguments = [f"--{name}={value}" for name, value in vars(options).items() if value is not None]
    result = subprocess.run(
        [sys.executable, __file__, *arguments, f"--kind={kind}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **malloc, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    shown = {name: value for name, value in found.items() if name != "first_losses"}
    print(f"{kind:9} load {os.getloadavg()[0]:.0f} {json.dumps(shown)}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--model", choices=CONFIGS, default="19m")
    parser.add_argument("--parts", default="workers,search")
    parser.add_argument("--folder", default="build/bench-fused")
    parser.add_argument("--kind")
    parser.add_argument("--store")
    options = parser.parse_args()
    folder = Path(options.folder).absolute()
    if options.kind:
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(KINDS[options.kind](folder, options)))
        sys.stdout.flush()
        os._exit(0)  # daemon threads and Ray need no farewell
    shutil.rmtree(folder, ignore_errors=True)
    options.store = measured("prepare", options)["store"]
    if "workers" in options.parts:
        one, alone, together = (measured(kind, options) for kind in ("one", "alone", "together"))
        pairs = zip(together.pop("first_losses"), alone.pop("first_losses"), strict=True)
        print(f"losses of the first 20 steps: apart by {max(abs(a - b) / b for a, b in pairs):.1e} at most")
        for part in ("steps", "set_up"):
            print(
                f"{part}: together / alone = {together[part]:.1f} / {alone[part]:.1f} CPU-s = "
                f"{together[part] / alone[part]:.2f}   goal {GOALS.get(part, '-')}"
            )
        rates = [found["tokens"] / found["steps"] for found in (together, alone)]
        print(f"tokens per CPU-second in the steps: {rates[0]:.0f} together, {rates[1]:.0f} alone")
        print(
            f"peak RSS: {together['peak']:.2f} / {one['peak']:.2f} GiB = {together['peak'] / one['peak']:.2f}   "
            f"goal < {GOALS['peak']}"
        )
    if "search" in options.parts:
        fused, separate = (measured(kind, options) for kind in ("fused", "separate"))
        for part, unit in (("reserved", "reserved core-s of the trials"), ("whole", "CPU-s of all processes")):
            print(
                f"{part}: fused / separate = {fused[part]:.1f} / {separate[part]:.1f} {unit} = "
                f"{fused[part] / separate[part]:.2f}   goal <= {GOALS[part]}"
            )


if __name__ == "__main__":
    main()
