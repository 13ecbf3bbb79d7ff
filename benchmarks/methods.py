"""`make bench-methods`: what each method and each objective is worth on the same small base and the same data.

    python benchmarks/methods.py --base build/base --alpaca alpaca.json --pairs pairs.json
        [--folder build/bench-methods] [--only methods,preferences,critique] [--rates 2] [--limit-s 270]

--base: what jobs/pretrain.py left: its run and its tokenizer. One thread; where several learning rates are tried the
table has the one with the lowest held-out loss, whatever the method.

methods        full, adapters, virtual tokens on --alpaca: held-out loss, trained parameters, time, memory, bytes;
               each in a process of its own (methods_alone.py)
preferences    dpo, orpo, kto, simpo on --pairs, from the fully tuned model: held-out accuracy and margin
critique       critique tuning against sft on sums whose solutions have planted errors, at equal tokens

The last two are runs of `raysft.train` on one local Ray. What a teacher is worth: distillation.py. What is done is
not done again: the same command goes on. --limit-s: start no further cell after so many seconds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")

import ray
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import raysft
from raysft.recipe.load import parse_recipe

Fields = dict[str, Any]
LOW_RANK = {"rank": 8, "alpha": 16.0}
ADAPTED = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
STEPS = 20

METHODS: dict[str, tuple[Fields, tuple[float, ...]]] = {
    "full": ({"kind": "full"}, (1e-3, 3e-4)),
    "freeze, last 2 layers": ({"kind": "freeze", "layers": 2}, (3e-3, 1e-3)),
    "lora": ({"kind": "lora", **LOW_RANK}, (1e-2, 3e-3)),
    "dora": ({"kind": "dora", **LOW_RANK}, (1e-2, 3e-3)),
    "ia3": ({"kind": "ia3"}, (3e-2, 1e-2)),
    "adalora": ({"kind": "adalora", "rank": 12, "target_rank": 8, "alpha": 24.0}, (3e-2, 1e-2)),
    "bottleneck": ({"kind": "bottleneck", "placement": "houlsby"}, (1e-2, 3e-3)),
    "prompt": ({"kind": "prompt"}, (1e-1, 3e-2)),
    "prefix": ({"kind": "prefix"}, (1e-1, 3e-2)),
    "p_tuning": ({"kind": "p_tuning"}, (1e-2, 3e-3)),
    "tuner loha": ({"kind": "tuner", "tuner": "loha", **ADAPTED}, (1e-2, 3e-3)),
    "lora, rsLoRA": ({"kind": "lora", **LOW_RANK, "rslora": True}, (1e-2, 3e-3)),
    "lora, LoRA+ 16": ({"kind": "lora", **LOW_RANK, "b_learning_rate_ratio": 16.0}, (1e-3, 3e-4)),
    "lora, PiSSA": ({"kind": "lora", **LOW_RANK, "init": "pissa"}, (3e-3, 1e-3)),
    "lora, OLoRA": ({"kind": "lora", **LOW_RANK, "init": "olora"}, (3e-3, 1e-3)),
    "lora, EVA": ({"kind": "lora", **LOW_RANK, "init": "eva"}, (1e-2, 3e-3)),
    "tuner fourierft": ({"kind": "tuner", "tuner": "fourierft", **ADAPTED}, (1e-1, 3e-2)),
    "tuner hra": ({"kind": "tuner", "tuner": "hra", **ADAPTED}, (1e-2, 3e-3)),
    "tuner miss": ({"kind": "tuner", "tuner": "miss", "options": {"r": 8}, **ADAPTED}, (1e-2, 3e-3)),
    "tuner oft": ({"kind": "tuner", "tuner": "oft", **ADAPTED}, (1e-2, 3e-3)),
    "tuner vera": ({"kind": "tuner", "tuner": "vera", **ADAPTED}, (1e-1, 3e-2)),
}
"""{row: (method, learning rates that are tried)}."""


class Trained(logging.Handler):
    """Reads how many parameters are trained out of what a run says."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.total = 0

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"trained +([\d,]+) of ([\d,]+) ", record.getMessage()):
            self.count, self.total = (int(number.replace(",", "")) for number in found.groups())


class Cells:
    """What was measured, one JSON line a cell."""

    def __init__(self, folder: Path, limit_s: float) -> None:
        self.folder, self._file = folder, folder / "cells.jsonl"
        self._began, self._limit_s = time.monotonic(), limit_s
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.done: dict[str, dict[str, Any]] = {line["cell"]: line for line in map(json.loads, lines)}
        self._trained = Trained()
        logging.getLogger("raysft").addHandler(self._trained)

    def run(self, cell: str, fields: Fields, alone: Callable[[Fields, Path], Fields] | None = None) -> dict[str, Any]:
        """The numbers of a cell; it is trained where that was not done. alone: by what, if not by `raysft.train`."""
        if cell in self.done:
            return self.done[cell]
        if time.monotonic() - self._began > self._limit_s:
            methods_table(self)
            print("the time is over; the same command goes on")
            sys.exit(75)
        name = re.sub(r"[^a-z0-9.]+", "-", cell.lower())
        named = {**fields, "name": name, "storage": str(self.folder / "storage")}
        found = alone(named, self.folder / "alone" / name) if alone else self._by_train(named)
        line = {"cell": cell, **found}
        with self._file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        self.done[cell] = line
        told = ", ".join(f"{name} {value:.4f}" for name, value in line["after"].items())
        print(f"{cell}: {told} ({line['run_s']:.0f} s)", flush=True)
        return line

    def _by_train(self, fields: Fields) -> dict[str, Any]:
        began = time.monotonic()
        run = raysft.train(parse_recipe(fields))
        steps, held_out = run.metrics().steps, run.metrics().held_out
        return {
            "in_training": [{"loss": one.loss, **one.measures} for one in (*held_out[:1], *held_out[-1:])],
            "before": {name: one.value for name, one in run.before.measures.items()} if run.before else {},
            "after": {name: one.value for name, one in run.evaluation.measures.items()} if run.evaluation else {},
            "tokens_per_s": median(step.tokens_per_s for step in steps[1:]),
            "tokens": steps[-1].line["total_tokens"],
            "peak_gib": max(step.line["peak_bytes"] for step in steps) / 2**30,
            "run_s": time.monotonic() - began,
            "trained": self._trained.count,
            "parameters": self._trained.total,
            "exports": list(run.exports),
        }


def fields_of(base: str, tokenizer: Path, train: Path, held_out: Path, /, **sections: Fields) -> Fields:
    """A recipe's fields on a base, all that cells have in common. sections: merged into them."""
    found: Fields = {
        "seed": 1,
        "model": {"source": base, "tokenizer": str(tokenizer)},
        "data": {
            "train": str(train),
            "eval": str(held_out),
            "template": "chatml",
            "max_tokens": 512,
            "over_long": "truncate",
        },
        "train": {"max_steps": STEPS, "rows_per_step": 2, "micro_batch_rows": 2, "precision": "fp32"},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 3},
        "cluster": {"workers": 1, "cpus_per_worker": 1},
        "checkpoint": {"every_steps": 1000, "keep_last": 1},
        "evaluate": {"max_rows": 16},
    }
    for name, section in sections.items():
        found[name] = {**found.get(name, {}), **section}
    return found


def split(path: Path, folder: Path, held_out: int) -> tuple[Path, Path]:
    """(the first records of a JSON array or of JSON lines, so many last ones), as files."""
    text = path.read_text()
    records = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    files = folder / f"{path.stem}.train.jsonl", folder / f"{path.stem}.held-out.jsonl"
    for file, part in zip(files, (records[:-held_out], records[-held_out:]), strict=True):
        if not file.exists():
            file.write_text("".join(json.dumps(record) + "\n" for record in part))
    return files


def size(folder: Path, pattern: str = "*.safetensors") -> int:
    """Bytes of the weights in a folder."""
    return sum(file.stat().st_size for file in folder.rglob(pattern)) if folder.exists() else 0


def merge_error(base: str) -> Callable[[Sequence[str]], Fields]:
    """Largest difference of logits between the merged export, and its adapter in plain peft on the untouched base."""

    def measure(exports: Sequence[str]) -> Fields:
        parts = {Path(part).name: Path(part) for part in exports}
        found: Fields = {f"{name}_bytes": size(part) for name, part in parts.items()}
        if {"adapter", "merged"} - parts.keys():
            return found
        ids = torch.randint(0, 2000, (4, 64), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            merged = AutoModelForCausalLM.from_pretrained(parts["merged"]).eval()(input_ids=ids).logits
            plain = AutoModelForCausalLM.from_pretrained(base)
            adapted = PeftModel.from_pretrained(plain, str(parts["adapter"])).eval()(input_ids=ids).logits
        return found | {"merge_error": float((merged - adapted).abs().max()), "logits": float(merged.abs().max())}

    return measure


def methods(cells: Cells, base: str, tokenizer: Path, alpaca: Path, tried: int) -> None:
    """tried: learning rates of each method."""
    from methods_alone import run_alone

    train, held_out = split(alpaca, cells.folder, 100)
    known = cells.folder / "stores.json"
    if not known.exists():
        prepared = raysft.prepare(
            parse_recipe(
                {
                    **fields_of(base, tokenizer, train, held_out),
                    "name": "any",
                    "storage": str(cells.folder / "storage"),
                }
            )
        )
        known.write_text(json.dumps({"train": prepared.train.location, "held_out": prepared.held_out.location}))
    stores = json.loads(known.read_text())
    for place in range(tried):
        for name, (method, rates) in METHODS.items():
            optimizer = {"learning_rate": rates[place]}
            fields = fields_of(base, tokenizer, train, held_out, method=method, optimizer=optimizer)
            cells.run(
                f"methods / {name} / {rates[place]:g}",
                fields,
                lambda fields, run: run_alone(fields, run, stores, base),
            )
    methods_table(cells)


def methods_table(cells: Cells) -> None:
    """Of what was measured: each method at the best of its learning rates."""
    print("\n| method | held-out loss | trained | learning rate | tokens/s | peak GiB | adapter | merge error |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (_, rates) in METHODS.items():
        found = [line for rate in rates if (line := cells.done.get(f"methods / {name} / {rate:g}"))]
        if not found:
            continue
        best = min(found, key=held_out_loss)
        rate = best["cell"].split(" / ")[-1]
        share = best["trained"] / best["parameters"]
        disk = best.get("adapter_bytes") or best["merged_bytes"]
        error = f"{best['merge_error']:.0e}" if "merge_error" in best else "-"
        print(
            f"| {name} | {best['before']['held_out/loss']:.3f} -> {held_out_loss(best):.3f} | {best['trained']:,} "
            f"({share:.2%}) | {rate} | {best['tokens_per_s']:,.0f} | {best['peak_gib']:.2f} | {disk / 1e6:.2f} MB "
            f"| {error} |"
        )


def held_out_loss(cell: Mapping[str, Any]) -> float:
    return float(cell["after"]["held_out/loss"])


PREFERENCES: dict[str, tuple[Fields, float]] = {
    "dpo": ({"kind": "dpo", "beta": 0.1}, 5e-5),
    "orpo": ({"kind": "orpo", "beta": 0.5}, 3e-4),
    "kto": ({"kind": "kto", "beta": 0.1}, 5e-5),
    "simpo": ({"kind": "simpo", "beta": 2.0, "gamma": 1.0}, 5e-5),
}


def preferences(cells: Cells, tokenizer: Path, pairs: Path) -> None:
    tuned = min((line for name, line in cells.done.items() if name.startswith("methods / full /")), key=held_out_loss)
    train, held_out = split(pairs, cells.folder, 60)
    print("\n| objective | held-out accuracy | margin | loss |\n|---|---|---|---|")
    for name, (objective, rate) in PREFERENCES.items():
        changes: dict[str, Fields] = {
            "objective": objective,
            "data": {"max_tokens": 2048, "over_long": "drop"},
            "train": {"max_steps": 40, "rows_per_step": 2, "micro_batch_rows": 1},
            "optimizer": {"learning_rate": rate},
            "evaluate": {"max_rows": 60},
        }
        found = cells.run(
            f"preferences / {name}", fields_of(tuned["exports"][-1], tokenizer, train, held_out, **changes)
        )
        begun, ended = found["in_training"]
        told = [f"{begun[name]:.3f} -> {ended[name]:.3f}" for name in MEASURES]
        print(f"| {name} | {' | '.join(told)} |")


MEASURES = ("accuracy", "margin", "loss")


QUESTIONS = {"instruction": "question", "output": "answer"}


def sums(draw: random.Random, count: int) -> Iterator[tuple[str, list[int], list[int]]]:
    """(question, its four numbers, the partial sums) of unlike questions."""
    seen: set[str] = set()
    while len(seen) < count:
        numbers = [draw.randint(1, 9) for _ in range(4)]
        question = f"What is {' + '.join(map(str, numbers))}?"
        if question not in seen:
            seen.add(question)
            yield question, numbers, list(accumulate(numbers))[1:]


def solution(numbers: list[int], partial: list[int]) -> str:
    steps = zip([numbers[0], *partial], numbers[1:], partial, strict=False)
    return f"{' '.join(f'{left} + {right} = {total}.' for left, right, total in steps)} #### {partial[-1]}"


def critique_of(numbers: list[int], right: list[int], told: list[int]) -> str:
    """Which step is wrong, and what it comes to. told: the partial sums of the solution that is judged."""
    for i, (is_right, found) in enumerate(zip(right, told, strict=True)):
        if is_right != found:
            left = [numbers[0], *told][i]
            return (
                f"Step {i + 1} is wrong: {left} + {numbers[i + 1]} = {right[i]}. {solution(numbers, right)} "
                "Conclusion: wrong [END]"
            )
    return f"{solution(numbers, right)} Conclusion: right [END]"


def write_sums(folder: Path) -> dict[str, Path]:
    """Sums to begin with, then as many others, solved and judged; and held-out ones."""
    draw, files = random.Random(0), {}
    drawn = list(sums(draw, 4200))
    parts = {"begin": drawn[:1500], "sft": drawn[1500:4000], "cft": drawn[1500:4000], "held-out": drawn[4000:]}
    for name, part in parts.items():
        records = []
        for question, numbers, right in part:
            told, off = list(right), draw.choice([-2, -1, 1, 2])
            if name == "cft" and draw.random() < 0.5:
                place = draw.randrange(len(right))
                told = [value + (off if i >= place else 0) for i, value in enumerate(told)]
            records.append(
                {
                    "question": question,
                    "noisy_answer": solution(numbers, told),
                    "critique": critique_of(numbers, right, told),
                }
                if name == "cft"
                else {"question": question, "answer": solution(numbers, right)}
            )
        files[name] = folder / f"sums.{name}.jsonl"
        files[name].write_text("".join(json.dumps(record) + "\n" for record in records))
    return files


def critique(cells: Cells, base: str, tokenizer: Path) -> None:
    """Both go on from the same half-taught model, for as many rows."""
    files = write_sums(cells.folder)

    def go(name: str, source: str, train: Path, steps: int, data: Fields) -> dict[str, Any]:
        sets = {"sums": {"data": str(files["held-out"]), "metrics": ["final_answer"], "prompts": 100}}
        sets["sums"] |= {"format": "alpaca", "columns": QUESTIONS}
        changes: dict[str, Fields] = {
            "data": {**data, "max_tokens": 256, "eval": []},
            "train": {"max_steps": steps, "rows_per_step": 8, "micro_batch_rows": 8},
            "evaluate": {"sets": sets, "max_new_tokens": 64},
        }
        return cells.run(f"critique / {name}", fields_of(source, tokenizer, train, files["held-out"], **changes))

    begun = go("begin", base, files["begin"], 60, {"columns": QUESTIONS})
    for name, data in {"sft": {"columns": QUESTIONS}, "cft": {"format": "critique"}}.items():
        go(name, begun["exports"][-1], files[name], 120, data)
    print("\n| | tokens | right answers to 100 held-out sums |\n|---|---|---|")
    for name in ("begin", "sft", "cft"):
        found = cells.done[f"critique / {name}"]
        right = [found[when]["sums/final_answer"] for when in ("before", "after")]
        print(f"| {name} | {found['tokens']:,} | {right[0]:.1%} -> {right[1]:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench-methods"))
    parser.add_argument("--only", default="methods,preferences,critique")
    parser.add_argument("--rates", type=int, default=2, help="learning rates of each method that are tried")
    parser.add_argument("--limit-s", type=float, default=float("inf"))
    for name in ("--base", "--alpaca", "--pairs"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    folder, home = options.folder.absolute(), options.base.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("raysft").setLevel(logging.INFO)
    logging.getLogger("raysft").propagate = False
    base, tokenizer = str(home / "runs" / "base" / "export" / "merged"), home / "tokenizer"
    cells = Cells(folder, options.limit_s)
    wanted = options.only.split(",")
    if "methods" in wanted:
        methods(cells, base, tokenizer, options.alpaca, options.rates)
    if set(wanted) - {"methods"}:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    if "preferences" in wanted:
        preferences(cells, tokenizer, options.pairs)
    if "critique" in wanted:
        critique(cells, base, tokenizer)
    ray.shutdown()


if __name__ == "__main__":
    main()
