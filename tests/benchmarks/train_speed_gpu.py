"""`train_speed.py --gpu`: MFU of the engine on one GPU, without Ray, at two shapes for which others publish figures.

1.5B  full fine-tuning, bf16, rows of 4,096 packed from segments of 512: goal >= 50% MFU
8B    LoRA (rank 16, all linear layers), sequences of 4,096, micro-batch 2, 16 micro-batches a step: NVIDIA NeMo
      AutoModel publishes 12,473 tokens/s and 402 TFLOP/s (40.6% of 989) on one H100

Fresh weights, made-up tokens, every token a target. FLOPs count each matrix product of the forward pass three times
(LoRA: twice) and attention under its causal mask once (recipe/resolve.py). NeMo's own count may differ, so compare
tokens/s. Not run yet: written on a machine without a GPU.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from raysft.data.feed import MicroBatch, largest_micro_batch
from raysft.engine.zero import ZeroEngine
from raysft.model.facts import read_facts
from raysft.model.isolation import use_fast_paths
from raysft.model.load import load_model
from raysft.model.methods import apply_method
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.load import parse_recipe
from raysft.recipe.resolve import resolve
from raysft.train.peak import peak_flops

LENGTH, WARMUP, STEPS = 4096, 3, 10
SHAPES: dict[str, dict[str, Any]] = {
    "1.5B full, packed 8 x 512": {
        "config": {
            "model_type": "qwen2",
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
        "method": {},
        "rows": 2,
        "micro_steps": 8,
        "segment": 512,
    },
    "8B LoRA, 4096 x 2": {
        "config": {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128_256,
            "tie_word_embeddings": False,
        },
        "method": {"kind": "lora", "rank": 16},
        "rows": 2,
        "micro_steps": 16,
        "segment": LENGTH,
    },
}


def micro_batch(rows: int, segment: int, vocab_size: int) -> MicroBatch:
    """Full rows of equal segments of made-up tokens."""
    positions = np.tile(np.arange(LENGTH, dtype=np.int64) % segment, (rows, 1))
    ids = np.random.default_rng(0).integers(0, vocab_size, positions.shape)
    labels = np.where(positions < segment - 1, np.roll(ids, -1, axis=1), -100)
    weights = (labels != -100).astype(np.float32)
    whole = largest_micro_batch(rows, LENGTH)
    return replace(whole, input_ids=ids, position_ids=positions, labels=labels, weights=weights)


def measure(name: str, shape: dict[str, Any]) -> None:
    """Train a few steps of one shape and print its figures."""
    device, config = torch.device("cuda"), shape["config"] | {"max_position_embeddings": LENGTH}
    recipe = parse_recipe(
        {
            "name": "gpu",
            "model": {"source": "random", "config": config, "tokenizer": "none"},
            "data": {"train": "none", "max_tokens": LENGTH},
            "method": shape["method"],
            "train": {"rows_per_step": shape["rows"] * shape["micro_steps"], "micro_batch_rows": shape["rows"]},
            "parallel": {"zero": 1},
            "cluster": {"gpus_per_worker": 1},
        }
    )
    run = resolve(recipe, read_facts(recipe), None)
    with device:
        model = load_model(recipe, vocab_size=config["vocab_size"])
    use_fast_paths(model, config["vocab_size"])
    engine = ZeroEngine(ObjectiveModule(apply_method(model, recipe), make_objective(recipe)), run, device)
    batch = micro_batch(shape["rows"], shape["segment"], config["vocab_size"])
    units = {"nll": float(batch.weights.sum()) * shape["micro_steps"]}
    times = []
    for step in range(WARMUP + STEPS):
        started = time.perf_counter()
        done = engine.train_step([batch] * shape["micro_steps"], units, step=step, learning_rate=1e-5)
        times.append(time.perf_counter() - started)
    step_s = median(times[WARMUP:])
    flops = run.token_flops * done.tokens + run.square_flops * done.tokens * shape["segment"]
    peak, basis = peak_flops(device, torch.bfloat16)
    print(
        f"{name}: {done.tokens / step_s:,.0f} tokens/s, {flops / step_s / 1e12:.0f} TFLOP/s, "
        f"MFU {flops / step_s / peak:.1%} ({basis}); {done.costs.peak_bytes / 2**30:.1f} GiB, "
        f"step {min(times[WARMUP:]):.2f}-{max(times[WARMUP:]):.2f} s, attention {model.config._attn_implementation}",
        flush=True,
    )
    engine.close()


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("no GPU here")
    os.environ.update(DS_ACCELERATOR="cuda", LOCAL_RANK="0")
    with tempfile.TemporaryDirectory() as scratch:
        dist.init_process_group("nccl", init_method=f"file://{scratch}/store", rank=0, world_size=1)
        for name, shape in SHAPES.items():
            measure(name, shape)
            torch.cuda.empty_cache()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
