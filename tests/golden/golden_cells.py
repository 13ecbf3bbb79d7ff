"""The cells whose losses are recorded, and how each is run: engines without Ray, whole trials, whole runs by Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import LORA, Bench
from material import CONFIG, recipe_fields
from small import make_recipe
from whole_state import tensors_of

from raysft.run.remote_tasks import newest_checkpoint
from raysft.run.run import run_training
from raysft.train.history.records import read_metrics

Found = dict[str, Any]
"""{losses, norms, held_out: hex floats, one a step or evaluation; weights: sha256 of what is saved}."""

STEPS = 5
LORA_DROPOUT = LORA | {"method__dropout": 0.1}
SLIDING = CONFIG | {
    "model_type": "gemma3_text",
    "head_dim": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 16,
}

ENGINES: dict[str, dict[str, Any]] = {
    "full, ZeRO 0": {"workers": 1},
    "full, ZeRO 1": {"workers": 2, "parallel__zero": 1},
    "full, ZeRO 2": {"workers": 2, "parallel__zero": 2, "train__micro_batch_rows": 2},
    "full, ZeRO 3": {"workers": 2, "parallel__zero": 3, "train__micro_batch_rows": 2},
    "LoRA, ZeRO 0": {"workers": 1, **LORA_DROPOUT},
    "LoRA, ZeRO 1": {"workers": 2, "parallel__zero": 1, **LORA},
    "LoRA, ZeRO 2": {"workers": 2, "parallel__zero": 2, "train__micro_batch_rows": 2, **LORA_DROPOUT},
    "LoRA, ZeRO 3": {"workers": 2, "parallel__zero": 3, **LORA},
    "full, 2 pipeline stages, ZeRO 1": {"workers": 2, "parallel__pipeline": 2, "parallel__zero": 1},
    "LoRA, 2 pipeline stages": {"workers": 2, "parallel__pipeline": 2, "train__micro_batch_rows": 2, **LORA},
    "full, tensor parallel 2, ZeRO 1": {"workers": 2, "parallel__tensor": 2, "parallel__zero": 1},
    "LoRA, tensor parallel 2": {"workers": 2, "parallel__tensor": 2, **LORA},
    "full, sequence parallel 2, ZeRO 2": {"workers": 2, "parallel__sequence": 2, "parallel__zero": 2},
    "LoRA, sequence parallel 2, ZeRO 3": {"workers": 2, "parallel__sequence": 2, "parallel__zero": 3, **LORA},
    "full, bf16, ZeRO 2": {"workers": 2, "parallel__zero": 2, "train__precision": "bf16"},
    "full, rows unpacked, activations recomputed": {
        "workers": 2,
        "parallel__zero": 1,
        "train__micro_batch_rows": 2,
        "data__packing": False,
        "train__gradient_checkpointing": True,
    },
    "full, sliding windows": {"workers": 1, "train__micro_batch_rows": 2, "model__config": SLIDING},
}
"""{name: workers and what differs from the recipe of the parity tests}. Names are those in losses.json."""

TRIALS: dict[str, list[list[int]] | None] = {
    "trials alone": None,
    "trials on one shared base": [[0], [1, 2]],
}
"""{name: trials that follow each other in a place of the shared base}."""

TRIAL_CHANGES: list[dict[str, Any]] = [
    {"optimizer__learning_rate": 3e-3, "method__dropout": 0.1, "optimizer__schedule": "cosine"},
    {"method__rank": 2, "method__alpha": 32.0, "train__rows_per_step": 4, "optimizer__max_grad_norm": 0.1},
    {"method__rank": 8, "method__target_modules": ["o_proj", "up_proj"], "train__micro_batch_rows": 3},
]

RUNS: dict[str, dict[str, Any]] = {
    "run by Ray, prepared": {
        "parallel__zero": 1,
        "cluster__workers": 2,
        "data__eval_fraction": 0.2,
        "evaluate": {"every_steps": 3},
        "optimizer__schedule": "linear",
    },
    "run by Ray, stream": {
        "parallel__zero": 0,
        "cluster__workers": 1,
        "data__mode": "stream",
        "data__order": "windowed",
    },
}
"""{name: what differs from the recipe of the tests on a cluster}."""

CELLS = (*ENGINES, *TRIALS, *RUNS)


def run_engine(bench: Bench, name: str, **more: Any) -> Found:
    """more: changes of the recipe, or a mutant."""
    results = bench.cell(**ENGINES[name] | {"until": STEPS} | more)
    assert all(result["losses"] == results[0]["losses"] for result in results)
    (first, *_) = results
    return found(first["losses"], first["norms"], [first["held_out"]], first["weights"])


def run_trials(bench: Bench, name: str, runs: Path) -> Found:
    trials = []
    for number, changes in enumerate(TRIAL_CHANGES):
        fields = recipe_fields(str(bench.directory / "tokenizer"), **LORA | changes)
        fields["data"]["eval"] = ["unused.jsonl"]
        fields["checkpoint"] = {"every_steps": STEPS}
        fields["evaluate"] = {"every_steps": STEPS, "max_rows": 3}
        trials.append({"recipe": fields, "run": str(runs / str(number)), "steps": STEPS})
    slots = TRIALS[name]
    (result,) = bench.run(1, {"store": bench.store, "trials": trials} | ({"slots": slots} if slots else {}))
    joined = {
        key: [value for trial in result["trials"] for value in trial[key]] for key in ("losses", "norms", "held_out")
    }
    weights = json.dumps([trial["weights"] for trial in result["trials"]], sort_keys=True)
    return found(**joined, weights=hashlib.sha256(weights.encode()).hexdigest())


def run_by_ray(name: str, directory: Path) -> Found:
    run = run_training(make_recipe(directory, train__max_steps=STEPS, **RUNS[name])).run
    lines = read_metrics(run)
    steps = [line for line in lines if line["kind"] == "step"]
    held_out = [line["loss"] for line in lines if line["kind"] == "eval"]
    weights = hashlib.sha256()
    for key, tensor in sorted(tensors_of(newest_checkpoint(run)).items()):
        weights.update(key.encode() + tensor.numpy().tobytes())
    return found(
        [line["loss"] for line in steps], [line["grad_norm"] for line in steps], held_out, weights.hexdigest()
    )


def found(losses: Iterable[float], norms: Iterable[float], held_out: Iterable[float], weights: str) -> Found:
    numbers = {"losses": losses, "norms": norms, "held_out": held_out}
    return {key: [float(value).hex() for value in values] for key, values in numbers.items()} | {"weights": weights}
