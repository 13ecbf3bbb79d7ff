"""How often the host waits for the GPU in a step: as often with many micro-batches as with few."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from questions import questions

from gpu.engines import CELLS, build, micro_batch, process_group
from raysft.engine.zero import ZeroEngine

if TYPE_CHECKING:
    from gpu.engines import Cell
    from gpu.run import Options

TINY = ("llama bf16 zero 1", "llama fp32 zero 2")
FEW, MANY = 2, 6


def waits(options: Options) -> Iterator[dict[str, Any]]:
    """{cell: waits of a step by who waits, of 2 and of 6 micro-batches}; where they differ a pass waits.

    On a GPU torch tells of each synchronising call; without one, questions that would be such are counted. Reserved
    and used memory are told by the way.
    """
    device, wrong = options.device, list[str]()
    with process_group(device):
        for name in TINY if options.tiny else CELLS:
            engine, _ = build(CELLS[name], device)
            step(engine, CELLS[name], FEW)  # what is made once
            few, many = (waited(engine, CELLS[name], count, device) for count in (FEW, MANY))
            wrong += [name] * (few != many)
            yield {name: {"in a step": sum(few.values()), "in passes": dict((many - few).most_common(5))}}
            costs = step(engine, CELLS[name], FEW).costs
            if device == "cuda":
                assert costs.device_bytes is not None
                assert costs.reserved_bytes is not None
                wrong += [f"{name}: memory"] * (not costs.peak_bytes <= costs.reserved_bytes <= costs.device_bytes)
            engine.close()
            del engine
    yield {"wrong": wrong, "ok": not wrong}


def step(engine: ZeroEngine, cell: Cell, count: int) -> Any:
    """A step of so many micro-batches."""
    batches = [micro_batch(cell, 16, number) for number in range(count)]
    units = {"nll": float(sum(batch.weights.sum() for batch in batches))}
    return engine.train_step(batches, units, step=0, learning_rate=1e-5)


def waited(engine: ZeroEngine, cell: Cell, count: int, device: str) -> Counter[str]:
    """{what waits: how often} in a step."""
    if device != "cuda":
        with questions() as asked:
            step(engine, cell, count)
        return asked
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step(engine, cell, count)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{one.filename.rpartition('/')[2]}:{one.lineno}" for one in told if "synchroniz" in str(one.message)]
    return Counter(places)
