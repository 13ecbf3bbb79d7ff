"""Peaks of two ranks against what the planner says: at the load, in steps, after a save.

    python benchmarks/planned_peaks.py [--layers 8] [--hidden 1024] [--tokens 512] [--folder DIR] [--only NAME]

Ranks on gloo, no Ray, a Llama in bf16 files. Measured is the highest resident set of the fuller rank over that after
the imports; predicted are the planner's parameters (load), its total without the copy of a save (step), and all of it
(save: a step after the first commit). GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from load_memory import BF16, FP32, LORA, make_files, measured, start_ranks

ROWS: list[tuple[str, dict[str, Any]]] = [
    ("ZeRO 3, full, fp32", {"parallel": {"zero": 3}, **FP32}),
    ("ZeRO 1, full, fp32", {"parallel": {"zero": 1}, **FP32}),
    ("ZeRO 3, full, bf16", {"parallel": {"zero": 3}, **BF16}),
    ("ZeRO 2, full, bf16", {"parallel": {"zero": 2}, **BF16}),
    ("ZeRO 3, LoRA, bf16", {"parallel": {"zero": 3}, **LORA, **BF16}),
    ("ZeRO 0, LoRA, fp32", {"parallel": {"zero": 0}, **LORA, **FP32}),
]


def one_rank(folder: str, fields: dict[str, Any], tokens: int) -> dict[str, float]:
    """{load, step, save: measured; predicted_*} in bytes."""
    import deepspeed
    import peft  # noqa: F401
    import torch
    import torch.distributed as dist
    from fakes import make_recipe, make_tokenizer

    from raysft.data.feed.collate import largest_micro_batch
    from raysft.engine.choose import make_engine
    from raysft.model.facts import read_facts
    from raysft.model.shape import read_shape
    from raysft.planner.memory import predict
    from raysft.recipe.resolve import resolve
    from raysft.train.assembly import outlined_module
    from raysft.train.commits.checkpoint import begin_attempt
    from raysft.train.commits.writer import Retention, Writer
    from raysft.train.group import TorchGroup
    from raysft.train.state import TrainState

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.optim.AdamW([torch.zeros(1)])  # imports what torch puts off until then
    recipe = make_recipe(
        model={"source": folder, "config": None, "tokenizer": None},
        data={"max_tokens": tokens},
        cluster={"workers": dist.get_world_size()},
        **fields,
    )
    cpu = torch.device("cpu")
    tokenizer, run, group = make_tokenizer(), resolve(recipe, read_facts(recipe), None), TorchGroup(cpu)
    plan = predict(recipe, read_shape(recipe), is_gpu=False)
    found = {
        "predicted_load": plan.states.parameters,
        "predicted_step": plan.total - plan.saved,
        "predicted_save": plan.total,
    }
    start, begin = deepspeed.initialize, measured()["resident"]

    def loaded(**arguments: Any) -> Any:
        found["load"] = measured()["peak"] - begin
        return start(**arguments)

    deepspeed.initialize = loaded
    engine = make_engine(outlined_module(recipe, tokenizer, cpu, total_steps=8), run, cpu)
    batches = [largest_micro_batch(recipe.train.micro_batch_rows, tokens)] * run.micro_steps
    units = {"nll": float(sum(batch.weights.sum() for batch in batches))}

    def step(number: int) -> None:
        engine.train_step(batches, units, step=number, learning_rate=1e-5)

    step(0)
    measured()
    step(1)
    found["step"] = measured()["peak"] - begin
    attempt, _ = begin_attempt(f"{folder}-run", group)
    writer = Writer(f"{folder}-run", attempt, group, retention=Retention(1), facts={})
    writer.save(engine.state, TrainState(step=2))
    writer.finish()
    measured()
    step(2)
    found["save"] = measured()["peak"] - begin
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--folder", help="where files are put; a temporary one without it")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row is not None:
        sys.stdout.write(json.dumps(one_rank(options.folder, ROWS[options.row][1], options.tokens)) + "\n")
        sys.stdout.flush()
        os._exit(0)  # DeepSpeed's groups end when all ranks do
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(f"{'':<22}" + "".join(f"{title:^26}" for title in ("load", "step", "save")))
        print(f"{'':<22}" + f"{'measured':>10}{'plan':>8}{'ratio':>8}" * 3)
        for number, (name, _) in enumerate(ROWS):
            if options.only not in name:
                continue
            model = str(Path(folder, f"model-{number}"))
            make_files(Path(model), options.layers, options.hidden)
            more = ["--tokens", str(options.tokens)]
            ranks = start_ranks(2, [str(Path(__file__).resolve()), "--folder", model, "--row", str(number), *more])
            cells = ""
            for what in ("load", "step", "save"):
                most, plan = max(rank[what] for rank in ranks), ranks[0][f"predicted_{what}"]
                cells += f"{most / 2**30:>10.2f}{plan / 2**30:>8.2f}{most / plan:>8.2f}"
            print(f"{name:<22}{cells}", flush=True)


if __name__ == "__main__":
    main()
