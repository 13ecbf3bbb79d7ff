"""One rank that builds engines and weighs their tensors by class: JSON cells in, bytes out. See test_planner.py."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raysft.engine.zero import ZeroEngine
from raysft.model.facts import read_facts
from raysft.model.load import load_model
from raysft.model.methods import apply_method
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.load import parse_recipe
from raysft.recipe.resolve import resolve


class Batch:
    """One row of 32 tokens."""

    def __init__(self) -> None:
        self.input_ids = self.labels = np.ones((1, 32), np.int64)
        self.position_ids = np.arange(32)[None]
        self.weights = np.ones((1, 32), np.float32)
        self.segment_of, self.atom_of = np.zeros((1, 32), np.int32), np.zeros(1, np.int32)
        self.fields: dict[str, np.ndarray] = {}
        self.sample_ids, self.num_tokens, self.index = np.array([1]), 32, 0


def live() -> dict[int, int]:
    """{address: bytes} of the storages of all tensors of floats that Python can see: others are rows, one ahead."""
    found = {}
    for thing in gc.get_objects():
        if isinstance(thing, Tensor) and thing.is_floating_point():
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    found.pop(0, None)
    return found


def weigh(engine: ZeroEngine, module: nn.Module, base: set[int]) -> dict[str, int]:
    """Bytes by class. What is neither weight, master nor moment is a gradient, or a bucket if it is huge."""
    found = {address: size for address, size in live().items() if address not in base}

    def take(tensors: list[Tensor]) -> int:
        return sum(found.pop(t.untyped_storage().data_ptr(), 0) for t in tensors)

    parameters = list(module.parameters())
    partitions = [p.ds_tensor for p in parameters if hasattr(p, "ds_tensor")]
    gathered = take([p.data for p in parameters]) if partitions else 0
    result = {"parameters": take(partitions or [p.data for p in parameters]), "gathered": gathered}
    adam = engine._adam.state
    result["optimizer"] = take([slot[name] for slot in adam.values() for name in ("exp_avg", "exp_avg_sq")])
    result["masters"] = take(list(adam))
    gradients = [p.grad for p in parameters if p.grad is not None]  # those that no Python object holds, too
    found |= {g.untyped_storage().data_ptr(): g.untyped_storage().nbytes() for g in gradients}
    result["gradients"] = sum(size for size in found.values() if size < 1e8)
    result["buckets"] = sum(size for size in found.values() if size >= 1e8)
    return result


def run_cell(fields: dict[str, Any]) -> dict[str, int]:
    """A step of two micro-batches; weighed after each backward pass, the larger of each class."""
    recipe = parse_recipe(fields)
    gc.collect()
    base = set(live())
    module = ObjectiveModule(apply_method(load_model(recipe, vocab_size=512), recipe), make_objective(recipe))
    engine = ZeroEngine(module, resolve(recipe, read_facts(recipe), None), torch.device("cpu"))
    wrapped, backward = engine._deepspeed, engine._deepspeed.backward
    seen: list[dict[str, int]] = []

    def weighed_backward(*arguments: Any, **named: Any) -> None:
        backward(*arguments, **named)
        gc.collect()
        seen.append(weigh(engine, module, base))

    wrapped.backward = weighed_backward
    engine.train_step([Batch(), Batch()], {"nll": 64.0}, step=0, learning_rate=1e-4)
    wrapped.backward = backward
    engine.close()
    return {name: max(entry[name] for entry in seen) for name in seen[0]}


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with open(os.environ["RESULTS"], "w") as results:
        for line in sys.stdin:
            results.write(json.dumps(run_cell(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
