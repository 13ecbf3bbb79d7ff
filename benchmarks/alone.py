"""Many short runs of one table without Ray: what a worker does, and then the task that exports, in forked processes.

The same code as in a run of `raysft train` (raysft/train/worker.py, raysft/run/remote_tasks.py), without placing it:
a table then measures the runs, and not the start of processes. Only data and reference columns are made on Ray, in a
process of its own, before.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import median
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")

import torch
import torch.distributed as dist

from raysft.data.prepare.prepare import prepare
from raysft.model.card import CardFacts
from raysft.model.facts import read_facts
from raysft.model.rehearsal import rehearse
from raysft.recipe.load import parse_recipe
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.resolve import resolve
from raysft.recipe.traits import method_of
from raysft.run import reference, remote_tasks
from raysft.run.adapter_start import make_start
from raysft.runtime.join import cluster
from raysft.train.history.paths import RunPaths
from raysft.train.history.records import evaluated_sets, read_metrics
from raysft.train.worker import train_worker
from raysft.train.worker_input import AttemptInput

Fields = dict[str, Any]
Work = Callable[[Path], Fields]
"""What a cell does, with a folder of its own that is emptied afterwards: its numbers."""


class Cells:
    """What was measured, one JSON line a cell."""

    def __init__(self, folder: Path, processes: int) -> None:
        self.folder, self._file, self._processes = folder, folder / "cells.jsonl", processes
        folder.mkdir(parents=True, exist_ok=True)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.done: dict[str, Fields] = {line["cell"]: line for line in map(json.loads, lines)}

    def run(self, wanted: Mapping[str, Work], keep: bool = False) -> None:
        """All cells that are not done, so many at a time. keep: their folders, too."""
        left = [name for name in wanted if name not in self.done]
        running: dict[Connection, str] = {}
        fork = multiprocessing.get_context("fork")
        while left or running:
            while left and len(running) < self._processes:
                name = left.pop(0)
                ours, theirs = fork.Pipe(duplex=False)
                fork.Process(target=_child, args=(theirs, wanted[name], self.place(name))).start()
                theirs.close()
                running[ours] = name
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                name = running.pop(ready)
                self._keep(name, ready)
                if not keep:
                    shutil.rmtree(self.place(name), ignore_errors=True)

    def place(self, cell: str) -> Path:
        """The folder of a cell."""
        return self.folder / "runs" / "".join(c if c.isalnum() or c in ".+" else "-" for c in cell)

    def _keep(self, name: str, answer: Connection) -> None:
        try:
            found: Fields = answer.recv()
        except EOFError as error:
            raise SystemExit(f"{name} ended without a result") from error
        if "error" in found:
            raise SystemExit(f"{name}: {found['error']}")
        self.done[name] = {"cell": name, **found}
        with self._file.open("a") as stream:
            stream.write(json.dumps(self.done[name]) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {name}: {found.get('told', '')}", flush=True)


def _child(answer: Connection, work: Work, folder: Path) -> None:
    try:
        torch.set_num_threads(1)
        shutil.rmtree(folder, ignore_errors=True)
        answer.send(work(folder))
    except BaseException:  # told by the parent
        answer.send({"error": traceback.format_exc()})


def stores_of(folder: Path, recipes: Mapping[str, Fields]) -> dict[str, Fields]:
    """{name: where the data and the reference columns of a recipe lie}, made on a local Ray where they are not."""
    known = folder / "stores.json"
    found: dict[str, Fields] = json.loads(known.read_text()) if known.exists() else {}
    if missing := {name: fields for name, fields in recipes.items() if name not in found}:
        process = multiprocessing.get_context("spawn").Process(target=_prepare, args=(missing, known, found))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit("the data could not be prepared")
        found = json.loads(known.read_text())
    return {name: found[name] for name in recipes}


def _prepare(recipes: Mapping[str, Fields], known: Path, found: dict[str, Fields]) -> None:
    logging.disable(logging.INFO)
    with cluster():
        for name, fields in recipes.items():
            recipe = with_absolute_paths(parse_recipe(fields))
            prepared = prepare(recipe)
            columns = reference.find_or_make(recipe, prepared)
            found[name] = {
                "train_store": prepared.train,
                "eval_stores": prepared.eval_stores,
                "train_columns": columns.train,
                "eval_columns": dict(columns.evaluated),
                "counts": prepared.train_manifest["counts"],
            }
            known.write_text(json.dumps(found))


def train_alone(fields: Fields, stores: Fields, run: Path) -> Fields:
    """The numbers of a run with one worker, which is this process. Raises RuntimeError."""
    recipe = parse_recipe(fields)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    if not dist.is_initialized():
        meeting = Path(tempfile.mkdtemp()) / "meeting"
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    if method_of(recipe).computed_start(recipe.method):
        make_start(recipe.model_dump(mode="json"), stores["train_store"], RunPaths(str(run)).start)
    (trained,) = [line for line in rehearse(recipe, remote_tasks.export_tokenizer(recipe)) if line[:7] == "trained"]
    count, _, total = trained.split()[1:4]
    idle, began = _resident_bytes(), time.process_time()
    outcome = train_worker(asdict(_input(fields, stores, run)))
    if outcome["status"] != "finished":
        raise RuntimeError(json.dumps(outcome))
    lines = read_metrics(str(run))
    steps = [line for line in lines if line["kind"] == "step"]
    measured = [evaluated_sets(line)["held_out"] for line in lines if line["kind"] == "eval"]
    told = [{"loss": one["loss"], **one["terms"], **one["metrics"]} for one in (*measured[:1], *measured[-1:])]
    return {
        "held_out": told,
        "tokens_per_s": median(line["tokens_per_s"] for line in steps[1:]),
        "tokens": steps[-1]["total_tokens"],
        "cpu_s": time.process_time() - began,
        "added_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - idle,
        "trained": int(count.replace(",", "")),
        "parameters": int(total.replace(",", "")),
    }


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _input(fields: Fields, stores: Fields, run: Path) -> AttemptInput:
    recipe = parse_recipe(fields)
    resolved = resolve(recipe, read_facts(recipe), None)
    assert recipe.train.max_steps is not None
    job = AttemptInput(
        recipe=recipe.model_dump(mode="json"),
        run=str(run),
        tokenizer=str(fields["model"]["tokenizer"]),
        train_store=stores["train_store"],
        eval_stores=stores["eval_stores"],
        num_replicas=1,
        sync=resolved.sync,
        token_flops=resolved.token_flops,
        square_flops=resolved.square_flops,
        total_steps=recipe.train.max_steps,
        steps_per_epoch=None,
        fingerprints=dict.fromkeys(("data", "mathematics", "execution"), "alone"),
        stream_cpus=0,
        memory_plan="",
        profile_steps=0,
    )
    return replace(job, train_columns=stores["train_columns"], eval_columns=stores["eval_columns"])


def export_alone(fields: Fields, run: Path) -> dict[str, Path]:
    """{what is exported of a finished run, `merged` or `adapter`: where it lies}."""
    recipe = parse_recipe(fields).model_dump(mode="json")
    card = asdict(CardFacts(0, 0, 0, 0, dict.fromkeys(("data", "mathematics"), "alone"), {}, {}))
    return {Path(one).name: Path(one) for one in remote_tasks.export(recipe, str(run), card)}


def fields_of(base: str | Path, tokenizer: Path, train: Path, held_out: Path | None, /, **sections: Any) -> Fields:
    """A recipe's fields on a base, what all cells have in common. sections: merged into them."""
    found: Fields = {
        "seed": 1,
        "name": "any",
        "model": {"source": str(base), "tokenizer": str(tokenizer)},
        "data": {
            "train": str(train),
            **({"eval": str(held_out)} if held_out else {}),
            "template": "chatml",
            "max_tokens": 512,
            "over_long": "truncate",
        },
        "train": {"max_steps": 60, "rows_per_step": 2, "micro_batch_rows": 2, "precision": "fp32"},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 5},
        "cluster": {"workers": 1, "cpus_per_worker": 1},
        "checkpoint": {"every_steps": 100000, "keep_last": 1},
        "evaluate": {"max_rows": 1000},
    }
    for name, section in sections.items():
        found[name] = {**found.get(name, {}), **section} if isinstance(section, dict) else section
    return found


def read_records(path: Path) -> list[Fields]:
    """Those of a JSON array or of JSON lines."""
    text = path.read_text()
    found: list[Fields] = (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    )
    return found


def write_records(path: Path, records: list[Fields]) -> Path:
    """JSON lines, if they are not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def quiet() -> None:
    """Say no more than a table needs."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    logging.getLogger("deepspeed").setLevel(logging.ERROR)
