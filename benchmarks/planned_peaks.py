"""Peaks of two ranks against what the planner says: at the load, in steps, after a save.

    python benchmarks/planned_peaks.py [--layers 12] [--hidden 512] [--tokens 64] [--folder DIR] [--only NAME]
                                       [--kept]

Ranks on gloo, no Ray, a Llama in bf16 files, each row in processes of its own. Measured is the highest resident set
of the fuller rank over that after a tiny model went the same way, which leaves modules, threads and kernels in the
process; predicted are the planner's parameters (load), its total without the copy of a save (step), and all of it
(save: a step after the first commit). MiB. The C library is told to give freed blocks back; with --kept it keeps them
for the next ones, as it does in a run: what that costs is no tensor, and the planner knows nothing of it.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from load_memory import BF16, FP32, LORA, make_files, measured, start_ranks

ROWS: list[tuple[str, dict[str, Any]]] = [
    ("ZeRO 0, LoRA, bf16", {"parallel": {"zero": 0}, **LORA, **BF16}),
    ("ZeRO 3, LoRA, bf16", {"parallel": {"zero": 3}, **LORA, **BF16}),
    ("2 stages, full, fp32", {"parallel": {"zero": 0, "pipeline": 2}, **FP32}),
    ("tensor 2, full, fp32", {"parallel": {"zero": 0, "tensor": 2}, **FP32}),
    ("ZeRO 1, full, fp32", {"parallel": {"zero": 1}, **FP32}),
    ("ZeRO 3, full, fp32", {"parallel": {"zero": 3}, **FP32}),
    ("ZeRO 0, full, fp32", {"parallel": {"zero": 0}, **FP32}),
    ("ZeRO 1, full, bf16", {"parallel": {"zero": 1}, **BF16}),
    ("ZeRO 2, full, bf16", {"parallel": {"zero": 2}, **BF16}),
    ("ZeRO 3, full, bf16", {"parallel": {"zero": 3}, **BF16}),
    ("2 stages, full, bf16", {"parallel": {"zero": 0, "pipeline": 2}, **BF16}),
]
WHAT = ("load", "step", "save")
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**14), "MALLOC_TRIM_THRESHOLD_": str(2**14)}
"""Blocks as small as what a short row keeps of a layer, too."""


def one_rank(folder: str, number: int, tokens: int) -> None:
    """One row; rank 0 prints the most of any rank."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    name, fields = ROWS[number]
    one_row(f"{folder}-tiny", fields, tokens)
    measured_here, planned = one_row(folder, fields, tokens)
    most = torch.tensor([measured_here[what] for what in WHAT], dtype=torch.float64)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    cells = "".join(
        f"{found / 2**20:>10.0f}{planned[what] / 2**20:>8.0f}{found / planned[what]:>8.2f}"
        for what, found in zip(WHAT, most.tolist(), strict=True)
    )
    if dist.get_rank() == 0:
        print(f"{name:<22}{cells}", file=sys.stderr, flush=True)


def one_row(folder: str, fields: dict[str, Any], tokens: int) -> tuple[dict[str, float], dict[str, float]]:
    """({load, step, save: bytes of this process}, likewise as planned). folder: of the model's files."""
    import deepspeed
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

    recipe = make_recipe(
        model={"source": folder, "config": None, "tokenizer": None},
        data={"max_tokens": tokens},
        cluster={"workers": dist.get_world_size()},
        **fields,
    )
    cpu = torch.device("cpu")
    tokenizer, run, group = make_tokenizer(), resolve(recipe, read_facts(recipe), None), TorchGroup(cpu)
    plan = predict(recipe, read_shape(recipe), is_gpu=False)
    planned = {"load": plan.states.parameters, "step": plan.total - plan.saved, "save": plan.total}
    gc.collect()
    found: dict[str, float] = {}
    start, begin = deepspeed.initialize, measured()["resident"]

    def loaded(**arguments: Any) -> Any:
        found["load"] = measured()["peak"] - begin
        return start(**arguments)

    deepspeed.initialize = loaded
    engine = make_engine(outlined_module(recipe, tokenizer, cpu, total_steps=8), run, cpu)
    deepspeed.initialize = start
    batches = [largest_micro_batch(recipe.train.micro_batch_rows, tokens)] * run.micro_steps
    units = {"nll": float(sum(batch.weights.sum() for batch in batches))}

    def step(done: int) -> None:
        engine.train_step(batches, units, step=done, learning_rate=1e-5)

    step(0)
    measured()
    step(1)
    found["step"] = measured()["peak"] - begin
    place = f"{folder}-run-{os.environ['MASTER_PORT']}"
    attempt, _ = begin_attempt(place, group)
    writer = Writer(place, attempt, group, retention=Retention(1), facts={})
    writer.save(engine, TrainState(step=2))
    writer.finish()
    measured()
    step(2)
    found["save"] = measured()["peak"] - begin
    engine.close()
    gc.collect()
    return found, planned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--kept", action="store_true", help="the C library keeps freed blocks")
    parser.add_argument("--folder", help="where files are put; a temporary one without it")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row is not None:
        one_rank(options.folder, options.row, options.tokens)
        print("{}", flush=True)
        os._exit(0)  # DeepSpeed's groups end when all ranks do
    if not options.kept:
        os.environ.update(GIVEN_BACK)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model = Path(folder, "model")
        make_files(model, options.layers, options.hidden)
        make_files(Path(f"{model}-tiny"), 2, 128, vocabulary=1024)
        print(f"{'':<22}" + "".join(f"{title:^26}" for title in WHAT), file=sys.stderr)
        print(f"{'':<22}" + f"{'measured':>10}{'plan':>8}{'ratio':>8}" * 3, file=sys.stderr, flush=True)
        command = [str(Path(__file__).resolve()), "--folder", str(model), "--tokens", str(options.tokens)]
        for number, (name, _) in enumerate(ROWS):
            if options.only in name:
                start_ranks(2, [*command, "--row", str(number)])


if __name__ == "__main__":
    main()
