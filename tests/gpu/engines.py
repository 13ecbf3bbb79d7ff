"""The engine on a GPU: the CPU's curves, the planner's bytes, speed, and what a save costs."""

from __future__ import annotations

import gc
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from raysft.data.feed.collate import MicroBatch, largest_micro_batch
from raysft.engine.slices import Saved
from raysft.engine.zero import ZeroEngine
from raysft.model.facts import read_facts
from raysft.model.fast import start_check
from raysft.model.fast.liger import use_liger
from raysft.model.fast.start_check import use_fast_paths
from raysft.model.load import load_model
from raysft.model.methods import apply_method
from raysft.model.shape import read_shape
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.planner.memory import predict
from raysft.recipe.load import parse_recipe
from raysft.recipe.resolve import ResolvedRun, resolve
from raysft.recipe.schema import Recipe
from raysft.train.commits.checkpoint import begin_attempt
from raysft.train.commits.saved import SavedState
from raysft.train.commits.writer import Retention, Writer
from raysft.train.engine_check import check_engine
from raysft.train.group import TorchGroup
from raysft.train.state import TrainState
from raysft.train.watch.peak import peak_flops

if TYPE_CHECKING:
    from gpu.run import Options

QWEN_1_5B = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
QWEN_0_5B = QWEN_1_5B | {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
}
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "tie_word_embeddings": False,
}
SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "tie_word_embeddings": False,
}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 512} | {
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
LORA = {"kind": "lora", "rank": 16}


@dataclass(frozen=True)
class Cell:
    """One engine: what is trained, and how."""

    config: dict[str, Any]
    zero: int = 1
    precision: str = "bf16"
    method: str = "full"
    checkpointing: bool = False
    rows: int = 2
    micro_steps: int = 2
    tokens: int = 64
    attention: str = "sdpa"
    liger: bool = True
    """Its kernels, where they are installed."""

    def recipe(self, device: str) -> Recipe:
        """As a user would write it."""
        return parse_recipe(
            {
                "name": "gpu",
                "model": {
                    "source": "random",
                    "config": self.config | {"max_position_embeddings": self.tokens},
                    "tokenizer": "none",
                    "attention": self.attention,
                },
                "data": {"train": "none", "max_tokens": self.tokens},
                "method": LORA if self.method == "lora" else {},
                "train": {
                    "rows_per_step": self.rows * self.micro_steps,
                    "micro_batch_rows": self.rows,
                    "precision": self.precision,
                    "gradient_checkpointing": self.checkpointing,
                },
                "parallel": {"zero": self.zero},
                "cluster": {"gpus_per_worker": int(device == "cuda")},
            }
        )


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """This process alone."""
    os.environ["LOCAL_RANK"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def build(cell: Cell, device: str, restored: Saved | None = None) -> tuple[ZeroEngine, ResolvedRun]:
    """As a worker does it. Large models are made on the device, so that no host copy is waited for."""
    recipe = cell.recipe(device)
    run, vocab = resolve(recipe, read_facts(recipe), None), int(cell.config["vocab_size"])
    small = cell.config.get("hidden_size", 0) < 512
    with torch.device("cpu" if small else device):  # the same weights on both devices where curves are compared
        model = load_model(recipe, vocab_size=vocab)
    torch.nn.Module.to(model, device)
    start_check.use_liger = use_liger if cell.liger else lambda model: None
    use_fast_paths(model, vocab)
    if cell.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    module = ObjectiveModule(apply_method(model, recipe), make_objective(recipe))
    return ZeroEngine(module, run, torch.device(device), restored), run


def micro_batch(cell: Cell, segment: int, seed: int) -> MicroBatch:
    """Full rows of segments of made-up tokens, each a target but every segment's first."""
    positions = np.tile(np.arange(cell.tokens, dtype=np.int64) % segment, (cell.rows, 1))
    ids = np.random.default_rng(seed).integers(0, int(cell.config["vocab_size"]), positions.shape)
    labels = np.where(positions < segment - 1, np.roll(ids, -1, axis=1), -100)
    labels[:, -1] = -100
    weights = (labels != -100).astype(np.float32)
    whole = largest_micro_batch(cell.rows, cell.tokens)
    return replace(whole, input_ids=ids, position_ids=positions, labels=labels, weights=weights)


def curve(cell: Cell, engine: ZeroEngine, steps: range) -> list[float]:
    """Loss of each step, on data that the step's number decides."""
    losses = []
    for step in steps:
        batches = [replace(micro_batch(cell, 16, 7 * step + i), index=i) for i in range(cell.micro_steps)]
        units = {"nll": float(sum(b.weights.sum() for b in batches))}
        losses.append(engine.train_step(batches, units, step=step, learning_rate=3e-3).loss)
    return losses


# parity ---------------------------------------------------------------------------------------------------------

CELLS = {
    "llama fp32 zero 0": Cell(SMALL, 0, "fp32"),
    "llama fp32 zero 1": Cell(SMALL, 1, "fp32"),
    "llama fp32 zero 2": Cell(SMALL, 2, "fp32"),
    "llama fp32 zero 3": Cell(SMALL, 3, "fp32"),
    "qwen3 fp32 zero 2": Cell(SMALL | {"model_type": "qwen3", "head_dim": 16}, 2, "fp32"),
    "gemma2 fp32 zero 2": Cell(SMALL | {"model_type": "gemma2", "head_dim": 16}, 2, "fp32", attention="eager"),
    "gpt2 fp32 zero 2": Cell(GPT2, 2, "fp32"),
    "llama fp32 LoRA": Cell(SMALL, 2, "fp32", "lora"),
    "llama fp32 checkpointing": Cell(SMALL, 1, "fp32", checkpointing=True),
    "llama bf16 zero 1": Cell(SMALL, 1),
    "llama bf16 zero 2": Cell(SMALL, 2),
    "llama bf16 zero 3": Cell(SMALL, 3),
    "llama bf16 LoRA": Cell(SMALL, 1, "bf16", "lora"),
}
RESUMED = "llama fp32 zero 2"
TINY_CELLS = (RESUMED, "llama bf16 zero 1")


def cells_of(options: Options) -> tuple[dict[str, Cell], int, int]:
    """What is compared, for how many steps, and after how many of them a state is saved."""
    return ({name: CELLS[name] for name in TINY_CELLS}, 6, 3) if options.tiny else (CELLS, 12, 6)


def whole_state(engine: ZeroEngine) -> dict[str, Tensor]:
    """One process holds all of it."""
    return {piece.key: piece.values.view(piece.shape) for piece in engine.state()}


def saved_in(folder: Path, file: str) -> SavedState:
    return SavedState(str(folder), [file], {})


def parity_child(options: Options, folder: Path) -> None:
    """The CPU's curves, its state after half of one, and that one gone on with from the other device's state."""
    theirs: dict[str, Any] = {}
    cells, steps, half = cells_of(options)
    with process_group("cpu"):
        for name, cell in cells.items():
            engine, _ = build(cell, "cpu")
            theirs[name] = curve(cell, engine, range(half if name == RESUMED else steps))
            if name == RESUMED:
                save_file(whole_state(engine), folder / "cpu.safetensors")
                theirs[name] += curve(cell, engine, range(half, steps))
            engine.close()
        cell = CELLS[RESUMED]
        engine, _ = build(cell, "cpu", saved_in(folder, "device.safetensors"))
        theirs["resumed"] = curve(cell, engine, range(half, steps))
        engine.close()
    (folder / "cpu.json").write_text(json.dumps(theirs))


def parity(options: Options) -> Iterator[dict[str, Any]]:
    """The same curve on two devices, and over a change of device in its middle. One process, one accelerator."""
    if "RAYSFT_KIT_FOLDER" in os.environ:
        parity_child(options, Path(os.environ["RAYSFT_KIT_FOLDER"]))
        return
    device, mine = options.device, dict[str, list[float]]()
    cells, steps, half = cells_of(options)
    again: dict[str, bool] = {}
    apart: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name_of, process_group(device):
        folder = Path(name_of)
        for name, cell in cells.items():
            engine, _ = build(cell, device)
            apart[name] = check_engine(engine, cell.recipe(device), int(cell.config["vocab_size"]))
            mine[name] = curve(cell, engine, range(half))
            if name == RESUMED:
                save_file(whole_state(engine), folder / "device.safetensors")
            mine[name] += curve(cell, engine, range(half, steps))
            engine.close()
        yield {"left_by_neighbours": apart}
        yield {"first_and_last": {name: [losses[0], losses[-1]] for name, losses in mine.items()}}
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
            cell, curves = CELLS["llama bf16 zero 1"], []
            for _ in range(2):
                engine, _ = build(cell, device)
                curves.append(curve(cell, engine, range(half)))
                engine.close()
            again["deterministic" if deterministic else "as it is"] = curves[0] == curves[1]
        torch.use_deterministic_algorithms(False)
        yield {"same_bits_again": again}
        command = [sys.executable, str(Path(__file__).with_name("run.py")), "--step", "parity", "--device", "cpu"]
        command += ["--tiny"] * options.tiny
        environment = os.environ | {"RAYSFT_KIT_FOLDER": str(folder), "DS_ACCELERATOR": "cpu"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        theirs = json.loads((folder / "cpu.json").read_text())
        engine, _ = build(CELLS[RESUMED], device, saved_in(folder, "cpu.safetensors"))
        resumed = curve(CELLS[RESUMED], engine, range(half, steps))
        engine.close()
    furthest = {name: furthest_of(mine[name], theirs[name]) for name in cells}
    furthest["fp32: CPU, then this device"] = furthest_of(resumed, theirs[RESUMED][half:])
    furthest["fp32: this device, then CPU"] = furthest_of(theirs["resumed"], theirs[RESUMED][half:])
    wrong = [name for name, far in furthest.items() if not far <= (1e-4 if "fp32" in name else 3e-2)]
    yield {"furthest": furthest, "wrong": wrong, "ok": not wrong}


def furthest_of(one: list[float], other: list[float]) -> float:
    """Largest relative difference of two curves."""
    return max(abs(x - y) / abs(y) for x, y in zip(one, other, strict=True))


# memory ---------------------------------------------------------------------------------------------------------

SIZES = {
    "1.5B full zero 1, no Liger": Cell(QWEN_1_5B, 1, tokens=4096, liger=False),
    "8B LoRA zero 1, no Liger": Cell(LLAMA_8B, 1, method="lora", tokens=4096, rows=1, liger=False),
    "0.5B full zero 1": Cell(QWEN_0_5B, 1, tokens=4096),
    "0.5B full zero 2": Cell(QWEN_0_5B, 2, tokens=4096),
    "1.5B full zero 1": Cell(QWEN_1_5B, 1, tokens=4096),
    "1.5B full zero 1 checkpointing": Cell(QWEN_1_5B, 1, checkpointing=True, tokens=4096),
    "8B LoRA zero 1": Cell(LLAMA_8B, 1, method="lora", tokens=4096, rows=1),
    "8B LoRA zero 3 checkpointing": Cell(LLAMA_8B, 3, method="lora", checkpointing=True, tokens=4096, rows=1),
}
TINY_SIZES = {"small": Cell(SMALL, 1), "small LoRA": Cell(SMALL, 2, method="lora")}


def memory(options: Options) -> Iterator[dict[str, Any]]:
    """GiB predicted for a step, and seen: while loading, in steps (allocated, reserved, by the whole device)."""
    device = options.device
    with process_group(device):
        for name, cell in (TINY_SIZES if options.tiny else SIZES).items():
            recipe = cell.recipe(device)
            predicted = predict(recipe, read_shape(recipe), is_gpu=device == "cuda")
            reset(device)
            engine, _ = build(cell, device)
            load = peak(device)
            batches = [largest_micro_batch(cell.rows, cell.tokens)] * cell.micro_steps
            units = {"nll": float(sum(b.weights.sum() for b in batches))}
            engine.train_step(batches, units, step=0, learning_rate=1e-5)
            reset(device)
            engine.train_step(batches, units, step=1, learning_rate=1e-5)
            step = peak(device)
            found: dict[str, Any] = {"predicted": gib(predicted.total), "load": gib(load), "step": gib(step)}
            found |= {"ratio": round(step / predicted.total, 3)}
            found["classes"] = {kind: gib(size) for kind, size in predicted.classes.items() if size}
            if device == "cuda":
                free, total = torch.cuda.mem_get_info()
                found |= {"reserved": gib(torch.cuda.max_memory_reserved()), "device": gib(total - free)}
            yield {name: found}
            engine.close()
            del engine


def gib(size: float) -> float:
    return round(size / 2**30, 2)


def reset(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# speed ----------------------------------------------------------------------------------------------------------

SPEEDS = {
    "1.5B full, packed 8 x 512": (Cell(QWEN_1_5B, tokens=4096, micro_steps=8), 512),
    "8B LoRA, 4096 x 2": (Cell(LLAMA_8B, method="lora", tokens=4096, micro_steps=4), 4096),
    "8B LoRA, no Liger": (Cell(LLAMA_8B, method="lora", tokens=4096, micro_steps=4, liger=False), 4096),
    "1.5B full ZeRO 2": (Cell(QWEN_1_5B, 2, tokens=4096, micro_steps=8), 512),
}
TINY_SPEEDS = {"small, packed": (Cell(SMALL), 16)}


def speed(options: Options) -> Iterator[dict[str, Any]]:
    """Tokens/s and MFU. FLOPs count each product of the forward pass three times (LoRA: twice) and causal attention
    once (recipe/resolve.py). NVIDIA NeMo AutoModel publishes 12,473 tokens/s for 8B LoRA, 4,096, on one H100."""
    device = options.device
    warm, steps = (1, 2) if options.tiny else (2, 5)
    with process_group(device):
        for name, (cell, segment) in (TINY_SPEEDS if options.tiny else SPEEDS).items():
            reset(device)
            engine, run = build(cell, device)
            batches = [micro_batch(cell, segment, i) for i in range(cell.micro_steps)]
            units = {"nll": float(sum(b.weights.sum() for b in batches))}
            seconds = []
            for step in range(warm + steps):
                started = time.perf_counter()
                done = engine.train_step(batches, units, step=step, learning_rate=1e-5)
                seconds.append(time.perf_counter() - started)
            step_s = median(seconds[warm:])
            flops = run.token_flops * done.tokens + run.square_flops * done.tokens * segment
            best, basis = peak_flops(torch.device(device), torch.bfloat16)
            found: dict[str, Any] = {
                "tokens_s": round(done.tokens / step_s),
                "tflops": round(flops / step_s / 1e12, 2),
                "mfu": round(flops / step_s / best, 4),
                "peak_gib": gib(peak(device)),
                "step_s": [round(min(seconds[warm:]), 3), round(max(seconds[warm:]), 3)],
                "of": basis,
            }
            yield {name: found}
            if options.profile:
                yield {f"{name}, profile": profile(engine, batches, units, device)}
            engine.close()
            del engine


def profile(engine: ZeroEngine, batches: list[MicroBatch], units: dict[str, float], device: str) -> dict[str, Any]:
    """Of one more step: its time, that of the device's kernels, the host's waits for it, the longest kernels (ms)."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    started = time.perf_counter()
    with torch.profiler.profile(activities=kinds) as traced:
        engine.train_step(batches, units, step=99, learning_rate=1e-5)
    wall_ms = (time.perf_counter() - started) * 1e3
    rows = traced.key_averages()
    waits = {row.key: row for row in rows if "Synchronize" in row.key or row.key.startswith("cudaMemcpy")}
    kernels = sorted(rows, key=lambda row: row.self_device_time_total, reverse=True)
    on_device = torch.autograd.DeviceType.CUDA
    kernels = [row for row in kernels if row.self_device_time_total and row.device_type == on_device]
    return {
        "wall_ms": round(wall_ms),
        "kernels_ms": round(sum(row.self_device_time_total for row in kernels) / 1e3),
        "waits": {name: [row.count, round(row.self_cpu_time_total / 1e3)] for name, row in waits.items()},
        "longest": {row.key[:70]: [row.count, round(row.self_device_time_total / 1e3, 1)] for row in kernels[:14]},
    }


# saves ----------------------------------------------------------------------------------------------------------


def saves(options: Options) -> Iterator[dict[str, Any]]:
    """Seconds that training stands for a save, into fresh and kept memory: in it, and before the next update until it
    is copied (`held`), beside a step's own; of writing behind it; of reading again. Committed is to be the state of
    the save, to the bit, though the next step's kernels ran beside the copy."""
    device = options.device
    cell = TINY_SIZES["small"] if options.tiny else SIZES["0.5B full zero 1"]
    found: dict[str, Any] = {}
    shm = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 2**35 else None  # what a disk takes is no figure of ours
    with tempfile.TemporaryDirectory(dir=shm) as folder, process_group(device):
        group = TorchGroup(torch.device(device))
        engine, _ = build(cell, device)
        attempt, _ = begin_attempt(folder, group)
        writer = Writer(folder, attempt, group, retention=Retention(1), facts={})
        batches = [micro_batch(cell, 16, i) for i in range(cell.micro_steps)]
        units = {"nll": float(sum(b.weights.sum() for b in batches))}
        steps = itertools.count()

        def step() -> tuple[float, float]:
            """(seconds, loss)"""
            started = time.perf_counter()
            loss = engine.train_step(batches, units, step=next(steps), learning_rate=1e-5).loss
            return round(time.perf_counter() - started, 3), loss

        step()
        found["step_s"], _ = step()
        for number, kind in enumerate(("fresh", "kept", "kept again"), start=1):
            then = {piece.key: piece.values.clone() for piece in engine.state()} if kind == "kept again" else {}
            started = time.perf_counter()
            writer.save(engine, TrainState(step=number))
            stall_s = time.perf_counter() - started
            step_s, loss = step()
            held_s, stepped = writer.held_s(), time.perf_counter()
            writer.finish()
            found[kind] = {"stall_s": round(stall_s + held_s, 4), "held_s": round(held_s, 4), "step_s": step_s}
            found[kind]["behind_s"] = round(time.perf_counter() - stepped, 3)
        engine.close()
        del engine
        started = time.perf_counter()
        _, restored = begin_attempt(folder, group)
        checked = time.perf_counter()
        assert restored is not None
        saved = restored.saved()
        torn = [key for key, values in then.items() if not torch.equal(saved.whole(key).flatten(), values.cpu())]
        del then
        found["resume"] = {"check_s": round(checked - started, 2), "read_s": round(time.perf_counter() - checked, 2)}
        size = sum(entry["bytes"] for entry in restored.files)
        started = time.perf_counter()
        engine, _ = build(cell, device, saved)
        found["resume"]["build_s"] = round(time.perf_counter() - started, 2)
        same = engine.train_step(batches, units, step=next(steps) - 1, learning_rate=1e-5).loss
        engine.close()
    found |= {"state_gb": round(size / 1e9, 3), "stall_gb_s": round(size / 1e9 / found["kept"]["stall_s"], 2)}
    found["torn"] = torn
    found |= {"host_peak_gib": gib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}
    yield found | {"losses": [loss, same], "ok": not torn and abs(same / loss - 1) < 1e-5}
