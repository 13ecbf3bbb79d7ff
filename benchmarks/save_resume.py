"""What a save and a resume cost each rank: time that the training stands still, memory, bytes written and read.

    python benchmarks/save_resume.py [--layers 8] [--hidden 1024] [--tokens 256] [--folder DIR] [--only NAME]

Ranks on gloo, no Ray: engine, writer and commits of a run. In rows `grown`, which are to be asked for (--only grown
--layers 2 --hidden 512: four ranks of the default's size need 23 GB), the model has as many parameters for each rank
as one rank's; what a rank does should then take as long, however many there are. Per row, the most of any rank:

MB       bytes of a rank's file
written    bytes of a rank's file over the state's bytes / ranks
held       bytes that a walk over `Engine.state()` allocates, over the bytes of a rank's file
stall      seconds that the training stands still for a save into memory that is there: in Writer.save(), and before
           the next update until its copy is made; the median of ROUNDS, and over `waited`
copy       seconds that all ranks take together to copy as many bytes, each its own, into memory that is there: what
           stood still until 2026-11-29
step       seconds of a step (--tokens of one row a rank), and how much longer the one after a save takes; medians
waited     seconds until a save is committed with nothing beside it: what a synchronous save would stand still for
read       bytes read of the checkpoint's files while a new process resumes, over what the rank needs of them: its
           ranges of weights and moments, and up to ZeRO 2 the other weights too
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from load_memory import BF16, FP32, LORA, VOCABULARY, make_files, measured, start_ranks

GROWN = "grown"
ROUNDS = 5
ROWS: list[tuple[str, int, dict[str, Any]]] = [
    ("ZeRO 3, fp32", 1, {"parallel": {"zero": 3}, **FP32}),
    ("ZeRO 3, fp32", 2, {"parallel": {"zero": 3}, **FP32}),
    ("ZeRO 3, fp32", 4, {"parallel": {"zero": 3}, **FP32}),
    ("ZeRO 3, bf16", 4, {"parallel": {"zero": 3}, **BF16}),
    ("ZeRO 1, bf16", 2, {"parallel": {"zero": 1}, **BF16}),
    ("ZeRO 0, LoRA, bf16", 2, {"parallel": {"zero": 0}, **LORA, **BF16}),
    ("2 stages, fp32", 2, {"parallel": {"pipeline": 2, "zero": 0}, **FP32}),
    ("tensor 2, fp32", 2, {"parallel": {"tensor": 2, "zero": 0}, **FP32}),
    *((f"{GROWN}, ZeRO 3, fp32", size, {"parallel": {"zero": 3}, **FP32}) for size in (1, 2, 4)),
]


def one_rank(folder: str, fields: dict[str, Any], run: str, tokens: int) -> dict[str, float]:
    """Figures of this process: of saves where the run has no commit, else of a resume."""
    import torch
    import torch.distributed as dist
    from fakes import make_recipe, make_tokenizer

    from raysft.data.feed.collate import largest_micro_batch
    from raysft.engine.choose import make_engine
    from raysft.model.facts import read_facts
    from raysft.recipe.resolve import resolve
    from raysft.train.assembly import outlined_module
    from raysft.train.commits.checkpoint import begin_attempt
    from raysft.train.commits.writer import Retention, Writer
    from raysft.train.group import TorchGroup
    from raysft.train.state import TrainState

    dist.init_process_group("gloo")
    recipe = make_recipe(
        model={"source": folder, "config": None, "tokenizer": None},
        cluster={"workers": dist.get_world_size()},
        **fields,
    )
    cpu = torch.device("cpu")
    group = TorchGroup(cpu)
    module = outlined_module(recipe, make_tokenizer(), cpu, total_steps=8)
    before = measured()
    attempt, restored = begin_attempt(run, group)
    checked = measured()
    saved = restored.saved() if restored else None
    counted = 0
    if saved is not None:
        read = saved._bytes

        def counting(file: str, offset: int, count: int) -> bytes | memoryview:
            nonlocal counted
            counted += count * (file not in saved._kept)
            return read(file, offset, count)

        saved._bytes = counting  # type: ignore[method-assign]
    engine = make_engine(module, resolve(recipe, read_facts(recipe), None), cpu, saved)
    own = sum(4 * piece.values.numel() for piece in engine.state())
    if saved is not None:
        held = [own_bytes(engine, name, p) for name, p in engine._trained.items()]
        return {"own": sum(held), "read": checked["read"] - before["read"] + counted}
    resident = measured()["resident"]
    for _ in engine.state():
        pass
    found = {"own": own, "held": max(0, measured()["peak"] - resident)}
    writer = Writer(run, attempt, group, retention=Retention(1), facts={})
    batches = [largest_micro_batch(1, tokens)] * resolve(recipe, read_facts(recipe), None).micro_steps
    units = {"nll": float(sum(batch.weights.sum() for batch in batches))}
    done = 0

    def step() -> float:
        nonlocal done
        group.barrier()
        started = time.perf_counter()
        engine.train_step(batches, units, step=done, learning_rate=1e-5)
        done += 1
        return time.perf_counter() - started

    step()
    writer.save(engine, TrainState(step=done))  # memory is touched for the first time
    step()
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        writer.finish()
        plain_s, _ = step(), writer.held_s()
        group.barrier()
        started = time.perf_counter()
        writer.save(engine, TrainState(step=done))
        saved_s = time.perf_counter() - started
        beside_s, held_s = step(), writer.held_s()
        rounds.append({"stall": saved_s + held_s, "step": plain_s, "longer": beside_s - plain_s})
    found |= {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    writer.finish()
    group.barrier()
    started = time.perf_counter()
    writer.save(engine, TrainState(step=done))
    writer.finish()
    found["waited"] = time.perf_counter() - started
    found["copy"] = min(copied_s(list(engine.state()), group) for _ in range(3))
    return found


def copied_s(pieces: list[Any], group: Any) -> float:
    """Seconds of a copy of these, while all ranks copy theirs."""
    import torch

    kept = [torch.empty_like(piece.values).fill_(0) for piece in pieces]
    group.barrier()
    started = time.perf_counter()
    for to, piece in zip(kept, pieces, strict=True):
        to.copy_(piece.values)
    return time.perf_counter() - started


def own_bytes(engine: Any, name: str, parameter: Any) -> int:
    """Of one parameter's state what a rank needs: its ranges, and the whole weight for a whole working copy."""
    held = engine._state.held(name, "exp_avg")
    own = held[1].numel() if held else 0
    weight = own if hasattr(parameter, "ds_id") else parameter.numel()
    return int(4 * weight + 8 * own)


def grown_layers(layers: int, hidden: int, ranks: int) -> int:
    """Layers of a model with so many times the parameters of one with `layers`; all have embedding and head."""
    outer, layer = 2 * VOCABULARY * hidden, 13 * hidden**2  # four products of attention, three of 3 x hidden
    return layers + round((ranks - 1) * (outer + layers * layer) / layer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--folder", help="where files are put; a temporary one without it")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row is not None:
        sys.stdout.write(
            json.dumps(one_rank(options.folder, ROWS[options.row][2], options.run, options.tokens)) + "\n"
        )
        sys.stdout.flush()
        os._exit(0)  # DeepSpeed's groups end when all ranks do
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        titles = (
            "ranks",
            "B param.",
            "MB",
            "written",
            "held",
            "stall s",
            "copy s",
            "step s",
            "longer",
            "waited s",
            "ratio",
            "read",
        )
        print(f"{'':<22}" + "".join(f"{title:>10}" for title in titles))
        for number, (name, size, _) in enumerate(ROWS):
            if options.only not in name or (GROWN in name and GROWN not in options.only):
                continue
            layers = options.layers
            if name.startswith(GROWN):
                layers = grown_layers(layers, options.hidden, size)
            model = str(Path(folder, f"model-{layers}"))
            if not Path(model).exists():
                make_files(Path(model), layers, options.hidden)
            parameters = sum(path.stat().st_size for path in Path(model).glob("*.safetensors")) / 2
            run = str(Path(folder, f"run-{number}"))
            arguments = [str(Path(__file__).resolve()), "--folder", model, "--row", str(number), "--run", run]
            arguments += ["--tokens", str(options.tokens)]
            saves, resumes = start_ranks(size, arguments), start_ranks(size, arguments)
            state, most = sum(r["own"] for r in saves), max(saves, key=lambda r: r["stall"])
            written, held = (max(f(r) for r in saves) for f in (lambda r: r["own"], lambda r: r["held"] / r["own"]))
            waited = max(r["waited"] for r in saves)
            read = max(r["read"] / r["own"] for r in resumes)
            found = (
                f"{parameters / 1e9:.3f}",
                f"{written / 1e6:.0f}",
                f"{written * size / state:.2f}",
                f"{held:.3f}",
                f"{most['stall']:.3f}",
                f"{max(r['copy'] for r in saves):.3f}",
                f"{max(r['step'] for r in saves):.2f}",
                f"{max(r['longer'] for r in saves):.3f}",
                f"{waited:.2f}",
            )
            ratios = (f"{most['stall'] / waited:.3f}", f"{read:.2f}")
            print(f"{name:<22}" + "".join(f"{text:>10}" for text in (str(size), *found, *ratios)), flush=True)


if __name__ == "__main__":
    main()
