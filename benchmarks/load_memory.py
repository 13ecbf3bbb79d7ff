"""Memory and bytes read of each rank while a model is loaded, over the size of its share.

    python benchmarks/load_memory.py [--layers 24] [--hidden 1024] [--folder DIR] [--whole]

Ranks on gloo, no Ray: outline, method and engine of a run, on a model of 0.4B parameters in bf16 files. `resident`
is the highest resident set from the imports to the start of DeepSpeed, over 4 bytes a parameter of the whole model;
`read` what the process read from files in that time, over the bytes of what it holds of them. --whole: every rank
loads the model whole, as before decision 034. `seconds`: from the recipe to the start of DeepSpeed. Rows of fresh
weights make the same model of a seed (decision 074), and read nothing of it. That of nf4 needs the extra `qlora`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")

VOCABULARY = 32_000
LORA = {"method": {"kind": "lora", "rank": 16}}
DORA = {"method": {"kind": "dora", "rank": 16}}
NF4 = {"method": {"kind": "lora", "rank": 16, "base_precision": "nf4"}}
BF16 = {"train": {"precision": "bf16", "rows_per_step": 4}}
FP32 = {"train": {"precision": "fp32", "rows_per_step": 4}}
ROWS: list[tuple[str, int, dict[str, Any]]] = [
    ("ZeRO 3, full, fp32", 4, {"parallel": {"zero": 3}, **FP32}),
    ("ZeRO 3, full, bf16", 4, {"parallel": {"zero": 3}, **BF16}),
    ("ZeRO 3, LoRA, bf16", 4, {"parallel": {"zero": 3}, **LORA, **BF16}),
    ("ZeRO 3, DoRA, bf16", 4, {"parallel": {"zero": 3}, **DORA, **BF16}),
    ("2 stages, full, fp32", 2, {"parallel": {"pipeline": 2, "zero": 0}, **FP32}),
    ("2 stages, LoRA, bf16", 2, {"parallel": {"pipeline": 2, "zero": 0}, **LORA, **BF16}),
    ("tensor 2, full, fp32", 2, {"parallel": {"tensor": 2, "zero": 1}, **FP32}),
    ("tensor 2, LoRA, bf16", 2, {"parallel": {"tensor": 2, "zero": 1}, **LORA, **BF16}),
    ("ZeRO 2, LoRA, bf16", 2, {"parallel": {"zero": 2}, **LORA, **BF16}),
    ("fresh, ZeRO 3, fp32", 4, {"parallel": {"zero": 3}, **FP32}),
    ("fresh, ZeRO 3, LoRA, bf16", 4, {"parallel": {"zero": 3}, **LORA, **BF16}),
    ("fresh, 2 stages, fp32", 2, {"parallel": {"pipeline": 2, "zero": 0}, **FP32}),
    ("ZeRO 2, nf4, bf16", 2, {"parallel": {"zero": 2}, **NF4, **BF16}),
]
FRESH = "fresh"
"""What names of rows begin with whose weights are in no files."""


def make_files(folder: Path, layers: int, hidden: int, vocabulary: int = VOCABULARY) -> None:
    """A Llama in bf16, several files; every tensor has numbers of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    for number, parameter in enumerate(model.parameters()):
        parameter.data.fill_(number / 1000)
    model.save_pretrained(folder, max_shard_size="200MB")


def source_of(folder: str, is_fresh: bool) -> dict[str, Any]:
    """`model` of a recipe: the files, or a fresh one of the same config."""
    if not is_fresh:
        return {"source": folder, "config": None, "tokenizer": None}
    return {"source": "random", "config": json.loads(Path(folder, "config.json").read_text()), "tokenizer": "none"}


def one_rank(folder: str, row: tuple[str, int, dict[str, Any]], whole: bool) -> dict[str, float]:
    """Figures of this process. Run with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."""
    import deepspeed
    import peft  # noqa: F401
    import torch
    import torch.distributed as dist
    from fakes import make_recipe, make_tokenizer

    from raysft.engine.choose import make_engine
    from raysft.model.facts import read_facts
    from raysft.model.fast.start_check import use_fast_paths
    from raysft.model.load import load_model
    from raysft.model.methods import apply_method, base_model, hold_in_four_bits
    from raysft.objectives.module import ObjectiveModule, make_objective
    from raysft.recipe.resolve import resolve
    from raysft.train.assembly import outlined_module

    dist.init_process_group("gloo")
    torch.optim.AdamW([torch.zeros(1)])  # imports what torch puts off until then
    model = source_of(folder, row[0].startswith(FRESH))
    recipe = make_recipe(model=model, cluster={"workers": dist.get_world_size()}, **row[2])
    tokenizer, device = make_tokenizer(), torch.device("cpu")
    run = resolve(recipe, read_facts(recipe), None)
    start, found, begin, began = deepspeed.initialize, {}, measured(), time.perf_counter()

    def measure(**arguments: Any) -> Any:
        after, found["seconds"] = measured(), time.perf_counter() - began
        module = arguments["model"]
        held = [p for name, p in module.named_parameters() if "lora_" not in name]
        found["elements"] = sum(
            p.ds_tensor.ds_numel if hasattr(p, "ds_id") else p.numel() * (1 + (p.dtype == torch.uint8)) for p in held
        )  # two of 4 bits in a byte
        found["load"] = after["peak"] - begin["resident"]
        found["read"] = after["read"] - begin["read"]
        return start(**arguments)

    deepspeed.initialize = measure
    if whole:
        model = load_model(recipe, vocab_size=VOCABULARY)
        use_fast_paths(model, len(tokenizer))
        adapted = apply_method(model, recipe)
        hold_in_four_bits(base_model(adapted), recipe)
        module = ObjectiveModule(adapted, make_objective(recipe))
    else:
        module = outlined_module(recipe, tokenizer, device, total_steps=8)
    make_engine(module, run, device)
    return found | {"engine": measured()["peak"] - begin["resident"]}


def measured() -> dict[str, int]:
    """Bytes: resident now, the most since the last call, read from files since the start."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    resident, peak = (int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return {"resident": resident, "peak": peak, "read": int(counters["rchar"])}


def start_ranks(size: int, arguments: list[str]) -> list[dict[str, float]]:
    """What a script says, in JSON in its last line, in each of so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    started = []
    for rank in range(size):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        command = [sys.executable, *arguments]
        started.append(subprocess.Popen(command, env=os.environ | where | ranks, stdout=subprocess.PIPE, text=True))
    answers = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started), answers
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--folder", help="where the model's files are put; a temporary one without it")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row is not None:
        sys.stdout.write(json.dumps(one_rank(options.folder, ROWS[options.row], options.whole)) + "\n")
        sys.stdout.flush()
        os._exit(0)  # DeepSpeed's groups end when all ranks do
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make_files(Path(folder), options.layers, options.hidden)
        stored = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        print(f"{stored / 2e9:.3f} B parameters, {stored / 1e9:.2f} GB in files, {2 * stored / 1e9:.2f} GB in fp32")
        print(f"{'':<26}{'ranks':>6}{'share':>8}{'resident':>10}{'read/share':>12}{'with engine':>13}{'seconds':>9}")
        for number, (name, size, _) in enumerate(ROWS):
            if options.only not in name or ("nf4" in name and not importlib.util.find_spec("bitsandbytes")):
                continue
            arguments = [str(HERE), "--folder", folder, "--row", str(number), *(["--whole"] if options.whole else [])]
            ranks = start_ranks(size, arguments)
            share, load, engine, seconds = (
                max(r[key] for r in ranks) for key in ("elements", "load", "engine", "seconds")
            )
            read = max(r["read"] / (2 * r["elements"]) for r in ranks)
            print(
                f"{name:<26}{size:>6}{2 * share / stored:>8.2f}{load / (2 * stored):>10.2f}{read:>12.2f}"
                f"{engine / (2 * stored):>13.2f}{seconds:>9.1f}"
            )


if __name__ == "__main__":
    main()
