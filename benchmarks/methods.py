"""What each method and each optimiser is worth on the same small base and the same data.

    python benchmarks/methods.py --base build/base --alpaca alpaca.json
        [--folder build/bench-methods] [--rates 1] [--steps 60] [--only lora,dora] [--processes 2]

--base: what jobs/pretrain.py left: its run and its tokenizer. Each method is tried at so many of its learning rates
(--rates), and the table has the one with the lowest held-out loss, whatever the method. A process and one thread
each (alone.py). Told: loss of the last 100 records, all others being trained on; parameters that are trained;
memory that the process takes beyond its start and CPU time of the whole run, both over those of `full`; bytes of
what is kept; the largest difference between the logits of the merged export and of its adapter in plain peft on the
untouched base. What is done is not done again: the same command goes on.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch
from alone import Cells, Fields, export_alone, fields_of, quiet, read_records, stores_of, train_alone, write_records
from peft import PeftModel
from transformers import AutoModelForCausalLM

LOW_RANK = {"kind": "lora", "rank": 8, "alpha": 16.0}
ADAPTED = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
TUNER = {"kind": "tuner", **ADAPTED}
Row = tuple[Fields, Fields, tuple[float, ...]]

METHODS: dict[str, Row] = {
    "full": ({"kind": "full"}, {}, (1e-3, 3e-4, 3e-3)),
    "full, Muon": ({"kind": "full"}, {"kind": "muon"}, (1e-3, 3e-3, 3e-4)),
    "full, Adafactor": ({"kind": "full"}, {"kind": "adafactor"}, (3e-2, 1e-2, 1e-1)),
    "freeze, last layer": ({"kind": "freeze", "layers": 1}, {}, (1e-3, 3e-3, 3e-4)),
    "lora": (LOW_RANK, {}, (3e-3, 1e-2, 1e-3)),
    "lora, Muon": (LOW_RANK, {"kind": "muon"}, (3e-3, 1e-2, 1e-3)),
    "lora, rsLoRA": ({**LOW_RANK, "rslora": True}, {}, (3e-3, 1e-3, 1e-2)),
    "lora, LoRA+ 16": ({**LOW_RANK, "b_learning_rate_ratio": 16.0}, {}, (1e-3, 3e-4, 3e-3)),
    "lora, PiSSA": ({**LOW_RANK, "init": "pissa"}, {}, (3e-3, 1e-3, 1e-2)),
    "lora, OLoRA": ({**LOW_RANK, "init": "olora"}, {}, (3e-3, 1e-3, 1e-2)),
    "lora, EVA": ({**LOW_RANK, "init": "eva"}, {}, (3e-3, 1e-2, 1e-3)),
    "lora, MLP rank 16": ({**LOW_RANK, "ranks": {"down_proj": 16, "up_proj": 16}}, {}, (3e-3, 1e-2, 1e-3)),
    "dora": ({**LOW_RANK, "kind": "dora"}, {}, (3e-3, 1e-2, 1e-3)),
    "adalora": ({"kind": "adalora", "rank": 12, "target_rank": 8, "alpha": 24.0}, {}, (1e-2, 3e-2, 3e-3)),
    "ia3": ({"kind": "ia3"}, {}, (3e-2, 1e-2, 1e-1)),
    "bottleneck, houlsby": ({"kind": "bottleneck", "placement": "houlsby"}, {}, (3e-3, 1e-2, 1e-3)),
    "bottleneck, pfeiffer": ({"kind": "bottleneck", "placement": "pfeiffer"}, {}, (3e-3, 1e-2, 1e-3)),
    "prompt": ({"kind": "prompt"}, {}, (1e-1, 3e-2, 3e-1)),
    "p_tuning": ({"kind": "p_tuning"}, {}, (1e-2, 3e-3, 3e-2)),
    "prefix": ({"kind": "prefix"}, {}, (3e-2, 1e-1, 1e-2)),
    "tuner loha": ({**TUNER, "tuner": "loha"}, {}, (1e-2, 3e-3, 3e-2)),
    "tuner fourierft": ({**TUNER, "tuner": "fourierft"}, {}, (1e-1, 3e-2, 3e-1)),
    "tuner hra": ({**TUNER, "tuner": "hra"}, {}, (1e-2, 3e-3, 3e-2)),
    "tuner miss": ({**TUNER, "tuner": "miss", "options": {"r": 8}}, {}, (1e-2, 3e-3, 3e-2)),
    "tuner oft": ({**TUNER, "tuner": "oft", "options": {"oft_block_size": 16}}, {}, (1e-2, 3e-3, 3e-2)),
    "tuner vera": ({**TUNER, "tuner": "vera"}, {}, (1e-1, 3e-2, 3e-1)),
}
"""{row: (method, what the optimiser has besides its learning rate, learning rates that are tried)}."""


def cell_of(name: str, rate: float, steps: int, seed: int = 1) -> str:
    return f"{name} / {rate:g} / {steps} steps / seed {seed}"


def measured(fields: Fields, stores: Fields, base: Path, run: Path) -> Fields:
    """The numbers of a method."""
    found = train_alone(fields, stores, run)
    exports = export_alone(fields, run)
    kept = exports.get("adapter", exports.get("merged"))
    assert kept is not None
    found["kept_bytes"] = sum(file.stat().st_size for file in kept.rglob("*.safetensors"))
    if {"adapter", "merged"} <= exports.keys():
        found["merge_error"] = merge_error(base, exports)
    told = " -> ".join(f"{one['loss']:.4f}" for one in found["held_out"])
    return found | {"told": f"{told} ({found['cpu_s']:.0f} CPU s)"}


def merge_error(base: Path, exports: dict[str, Path]) -> float:
    ids = torch.randint(0, 2000, (4, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(exports["merged"]).eval()(input_ids=ids).logits
        plain = AutoModelForCausalLM.from_pretrained(base)
        adapted = PeftModel.from_pretrained(plain, str(exports["adapter"])).eval()(input_ids=ids).logits
    return float((merged - adapted).abs().max())


def table(cells: Cells, steps: int) -> None:
    """Of what was measured: each method at the best of its learning rates."""
    heads = ("method", "held-out loss", "trained", "learning rate", "memory", "CPU time", "kept", "merge error")
    print(f"\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    best = {}
    for name, (_, _, rates) in METHODS.items():
        found = [line for rate in rates if (line := cells.done.get(cell_of(name, rate, steps)))]
        if found:
            best[name] = min(found, key=lambda line: float(line["held_out"][-1]["loss"]))
    for name, line in best.items():
        rate, (before, after) = line["cell"].split(" / ")[1], (one["loss"] for one in line["held_out"])
        shares = [f"{line[key] / best.get('full', line)[key]:.2f}" for key in ("added_bytes", "cpu_s")]
        trained = f"{line['trained']:,} ({line['trained'] / line['parameters']:.2%})"
        error = f"{line['merge_error']:.0e}" if "merge_error" in line else "-"
        print(
            f"| {name} | {before:.3f} -> {after:.3f} | {trained} | {rate} | {' | '.join(shares)} "
            f"| {line['kept_bytes'] / 1e6:.2f} MB | {error} |"
        )
    if "full" in best:
        full = best["full"]
        print(f"memory 1.00 is {full['added_bytes'] / 2**20:.0f} MiB, CPU time 1.00 is {full['cpu_s']:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--alpaca", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/bench-methods"))
    parser.add_argument("--only", help="rows, in part: those whose names have one of these words")
    parser.add_argument("--rates", type=int, default=1, help="learning rates of each method that are tried")
    parser.add_argument("--steps", type=int, default=60, help="of 2 rows of 512 tokens")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each; the table shows the first")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    quiet()
    cells, home = Cells(options.folder.absolute(), options.processes), options.base.absolute()
    base, tokenizer = home / "runs" / "base" / "export" / "merged", home / "tokenizer"
    records = read_records(options.alpaca)
    parts = {"train": records[:-100], "held-out": records[-100:]}
    files = [write_records(cells.folder / f"alpaca.{name}.jsonl", part) for name, part in parts.items()]
    names = options.only.split(",") if options.only else list(METHODS)
    wanted = [name for name in METHODS if any(one in name for one in names)]
    work = {}
    for place in range(options.rates):
        for name in wanted:
            method, optimizer, rates = METHODS[name]
            for seed in range(1, options.seeds + 1):
                fields = fields_of(
                    base,
                    tokenizer,
                    *files,
                    storage=str(cells.folder / "storage"),
                    method=method,
                    seed=seed,
                    optimizer={**optimizer, "learning_rate": rates[place]},
                    train={"max_steps": options.steps},
                )
                stores = stores_of(cells.folder, {"alpaca": fields})["alpaca"]
                cell = cell_of(name, rates[place], options.steps, seed)
                work[cell] = functools.partial(measured, fields, stores, base)
    cells.run(work)
    table(cells, options.steps)


if __name__ == "__main__":
    main()
