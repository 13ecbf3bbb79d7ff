"""One run without Ray: what a worker does, and then the task that exports, as functions of one process.

The same code as in a run of `raysft train` (raysft/train/worker.py, raysft/run/remote_tasks.py), without placing it:
a table of many short runs then measures them, and not the start of processes. The data must be prepared.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
import traceback
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch.distributed as dist
from methods import merge_error

from raysft.model.card import CardFacts
from raysft.model.facts import read_facts
from raysft.model.rehearsal import rehearse
from raysft.recipe.load import parse_recipe
from raysft.recipe.resolve import resolve
from raysft.recipe.traits import method_of
from raysft.run import remote_tasks
from raysft.run.adapter_start import make_start
from raysft.train.history.paths import RunPaths
from raysft.train.history.records import evaluated_sets, read_metrics
from raysft.train.worker import train_worker
from raysft.train.worker_input import AttemptInput

Fields = dict[str, Any]


def run_alone(fields: Fields, run: Path, stores: dict[str, str], base: str) -> dict[str, Any]:
    """The numbers of a run, from a process of its own, forked: its peak memory is its own."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_child, args=(theirs, fields, run, stores, base))
    process.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError as error:
        raise SystemExit(f"the run {run} ended without a result") from error
    process.join()
    if "error" in found:
        raise SystemExit(found["error"])
    return found


def _child(answer: Connection, fields: Fields, run: Path, stores: dict[str, str], base: str) -> None:
    try:
        answer.send(_measured(fields, run, stores, base))
    except BaseException as error:  # told by the parent
        answer.send({"error": "".join(traceback.format_exception(error))})


def _measured(fields: Fields, run: Path, stores: dict[str, str], base: str) -> dict[str, Any]:
    began, recipe = time.monotonic(), parse_recipe(fields)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    meeting = Path(tempfile.mkdtemp()) / "meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    resolved = resolve(recipe, read_facts(recipe), None)
    if method_of(recipe).computed_start(recipe.method):
        make_start(recipe.model_dump(mode="json"), stores["train"], RunPaths(str(run)).start)
    assert recipe.train.max_steps is not None
    job = AttemptInput(
        recipe=recipe.model_dump(mode="json"),
        run=str(run),
        tokenizer=str(fields["model"]["tokenizer"]),
        train_store=stores["train"],
        eval_stores={"held_out": stores["held_out"]},
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
    outcome = train_worker(asdict(job))
    if outcome["status"] != "finished":
        raise RuntimeError(json.dumps(outcome))
    lines = read_metrics(str(run))
    steps = [line for line in lines if line["kind"] == "step"]
    losses = [evaluated_sets(line)["held_out"]["loss"] for line in lines if line["kind"] == "eval"]
    card = asdict(CardFacts(0, 0, 0, 0, dict.fromkeys(("data", "mathematics"), "alone"), {}, {}))
    exports = remote_tasks.export(recipe.model_dump(mode="json"), str(run), card)
    (trained,) = [line for line in rehearse(recipe, remote_tasks.export_tokenizer(recipe)) if line[:7] == "trained"]
    count, _, total = trained.split()[1:4]
    return {
        "before": {"held_out/loss": losses[0]},
        "after": {"held_out/loss": losses[-1]},
        "tokens_per_s": median(line["tokens_per_s"] for line in steps[1:]),
        "tokens": steps[-1]["total_tokens"],
        "peak_gib": max(line["peak_bytes"] for line in steps) / 2**30,
        "run_s": time.monotonic() - began,
        "trained": int(count.replace(",", "")),
        "parameters": int(total.replace(",", "")),
        "exports": exports,
        **merge_error(base)(exports),
    }
