"""Whether preferences can be learned: dpo, orpo, kto, simpo and a reward model, every pair held out once.

    python benchmarks/preferences.py --base build/base --alpaca alpaca.json --pairs pairs.json
        [--folder build/preferences] [--only dpo,reward] [--epochs 2] [--folds 5] [--processes 2]

--base: what jobs/pretrain.py left. All begin with that base after --alpaca (`sft`, all weights). Of a pair: the
last question's first 40 words, and of both answers the first --words. The pairs are dealt into --folds parts; each
part is held out of a run on the others. What is told comes from plain transformers on each run's export: over all
pairs, each judged by the one model that has not seen it, the share whose preferred answer has the higher score, and
the mean gap of scores. Standard errors are over pairs; that of a rise over each pair's own change. A score is the
objective's own: gain of log p over the model before (dpo, kto; 50% before, by definition), log odds a token (orpo),
log p a token (simpo), the head's (reward; a new one, so 50% before).
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from alone import (
    Cells,
    Fields,
    Work,
    export_alone,
    fields_of,
    quiet,
    read_records,
    stores_of,
    train_alone,
    write_records,
)
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

BETA = 0.1
OBJECTIVES: dict[str, tuple[Fields, float]] = {
    "dpo": ({"kind": "dpo", "beta": BETA}, 1e-4),
    "kto": ({"kind": "kto", "beta": BETA}, 1e-4),
    "orpo": ({"kind": "orpo", "beta": 1.0}, 1e-3),
    "simpo": ({"kind": "simpo", "beta": 2.5, "gamma": 1.0}, 3e-4),
    "reward": ({"kind": "reward"}, 1e-4),
}
"""{row: (objective, its learning rate)}."""
ROWS = 1
"""Of 2,048 tokens a step."""
Recipes = dict[str, Fields]
SIDES = ("chosen", "rejected")
Judged = dict[str, tuple[float, int]]
"""{side: (log p of an answer, its tokens)}, or (its score, 1)."""


def pair_of(record: Fields, words: int) -> Fields:
    """A pair of one question, as `prompt`, `chosen`, `rejected`."""
    asked = [turn["value"] for turn in record["conversations"] if turn["from"] == "human"][-1]
    answers = {name: cut(record[name]["value"], words) for name in ("chosen", "rejected")}
    return {"prompt": cut(asked, 40), **answers}


def cut(text: str, words: int) -> str:
    """Its first words, with the white space between them."""
    return "".join(re.findall(r"\s*\S+", text)[:words]).strip()


def log_odds(log_p: float) -> float:
    return log_p - math.log(-math.expm1(log_p))


def score(objective: str, after: tuple[float, int], before: tuple[float, int]) -> float:
    """What the objective raises of preferred answers. (log p, tokens) under the tuned model, and under the first."""
    match objective:
        case "dpo" | "kto":
            return BETA * (after[0] - before[0])
        case "orpo":
            return log_odds(after[0] / after[1])
        case "simpo":
            return after[0] / after[1]
        case _:
            return after[0]


def asked(tokenizer: Any, pair: Fields, name: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of it with an answer and what ends a turn."""
    talk: list[dict[str, str]] = [{"role": "user", "content": pair["prompt"]}]
    prompt = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    talk.append({"role": "assistant", "content": pair[name]})
    text = tokenizer.apply_chat_template(talk, tokenize=False)
    start, ids = (tokenizer(one, add_special_tokens=False)["input_ids"] for one in (prompt, text))
    return start, ids


def gap(objective: str, after: Judged, before: Judged) -> float:
    """How far the preferred answer's score is above the other's."""
    preferred, rejected = (score(objective, after[side], before[side]) for side in SIDES)
    return preferred - rejected


def judged(model_path: Path, tokenizer_path: Path, pairs: Sequence[Fields]) -> list[Judged]:
    """Log p of both answers of each pair, by plain transformers: of their tokens and the end of the turn."""
    tokenizer, model = AutoTokenizer.from_pretrained(tokenizer_path), AutoModelForCausalLM.from_pretrained(model_path)

    def log_p(start: list[int], ids: list[int]) -> tuple[float, int]:
        ids = ids[:-1]  # the line break behind the end of the turn is no part of it
        logits = model(input_ids=torch.tensor([ids])).logits[0, len(start) - 1 : -1].float()
        chosen = torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids[len(start) :])[:, None])
        return float(chosen.sum()), len(chosen)

    with torch.no_grad():
        return [{name: log_p(*asked(tokenizer, pair, name)) for name in SIDES} for pair in pairs]


def rewarded(model_path: Path, tokenizer_path: Path, pairs: Sequence[Fields]) -> list[Judged]:
    """Scores of both answers of each pair, by plain transformers."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    model = AutoModelForSequenceClassification.from_pretrained(model_path)

    def score_of(ids: list[int]) -> float:
        return float(model(input_ids=torch.tensor([ids])).logits[0, 0])

    with torch.no_grad():
        return [{name: (score_of(asked(tokenizer, pair, name)[1]), 1) for name in SIDES} for pair in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--base", "--alpaca", "--pairs"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/preferences"))
    parser.add_argument("--only", default=",".join(OBJECTIVES))
    parser.add_argument("--words", type=int, default=24)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--first", type=int, help="only so many of the folds")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, help="learning rate, instead of each objective's")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    quiet()
    folder = options.folder.absolute()
    cells, tokenizer = Cells(folder, options.processes), options.base.absolute() / "tokenizer"
    start = start_model(cells, options.base.absolute(), tokenizer, options.alpaca)
    pairs = [pair_of(record, options.words) for record in read_records(options.pairs)]
    random.Random(0).shuffle(pairs)
    parts = [pairs[i :: options.folds] for i in range(options.folds)]
    cells.run({"before": lambda run: {"judged": judged(start, tokenizer, [p for part in parts for p in part])}})
    before = iter(cells.done["before"]["judged"])
    befores = [[next(before) for _ in part] for part in parts]
    names = options.only.split(",")
    recipes = {name: recipes_of(parts, name, start, tokenizer, folder, options) for name in names}
    stores = stores_of(folder, {data: fields for own in recipes.values() for data, fields in own.items()})
    work: dict[str, dict[str, Work]] = {}
    for name, own in recipes.items():
        rate = next(iter(own.values()))["optimizer"]["learning_rate"]
        label = f"{name} / {rate:g} / {options.epochs} epochs / {options.words} words"
        work[label] = {}
        for i, (data, fields) in enumerate(own.items()):
            fields["train"]["max_steps"] = round(stores[data]["counts"]["rows"] * options.epochs / ROWS)
            work[label][f"{label} / {i}"] = functools.partial(one_fold, fields, stores[data], parts[i], tokenizer)
    cells.run({cell: one for own in work.values() for cell, one in own.items()})
    heads = ("objective", "held-out pairs right", "rise", "margin", "its rise", "loss")
    print(f"\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for label, own_work in work.items():
        tell(label.split(" / ")[0], label, [cells.done[cell] for cell in own_work], befores)


def start_model(cells: Cells, base: Path, tokenizer: Path, alpaca: Path) -> Path:
    """The export of the base after two epochs or so of all but the last 100 of the records."""
    records = read_records(alpaca)
    parts = {"train": records[:-100], "held-out": records[-100:]}
    files = [write_records(cells.folder / f"alpaca.{name}.jsonl", part) for name, part in parts.items()]
    fields = fields_of(
        base / "runs" / "base" / "export" / "merged",
        tokenizer,
        *files,
        storage=str(cells.folder / "storage"),
        train={"max_steps": 120, "rows_per_step": 8, "micro_batch_rows": 4},
    )

    def work(run: Path) -> Fields:
        found = train_alone(fields, stores["start"], run)
        export_alone(fields, run)
        return found | {"told": " -> ".join(f"{one['loss']:.3f}" for one in found["held_out"])}

    stores = stores_of(cells.folder, {"start": fields})
    cells.run({"start": work}, keep=True)
    return cells.place("start") / "export" / "merged"


def recipes_of(
    parts: list[list[Fields]], name: str, start: Path, tokenizer: Path, folder: Path, options: Any
) -> Recipes:
    """{a name of its data: what trains on all parts but one}, for each of them."""
    found = {}
    for i, part in enumerate(parts[: options.first]):
        own = [pair for j, other in enumerate(parts) for pair in other if j != i]
        files = [
            write_records(folder / "pairs" / f"{options.words}.{len(parts)}.{i}.{side}.jsonl", pairs)
            for side, pairs in (("train", own), ("held-out", part))
        ]
        found[f"{name} / {options.words} words / {len(parts)} folds / {i}"] = fields_of(
            start,
            tokenizer,
            *files,
            storage=str(folder / "storage"),
            objective=OBJECTIVES[name][0],
            data={"max_tokens": 2048, "over_long": "drop"},
            train={"rows_per_step": ROWS, "micro_batch_rows": 1},
            optimizer={"learning_rate": options.rate or OBJECTIVES[name][1]},
        )
    return found


def one_fold(fields: Fields, stores: Fields, pairs: list[Fields], tokenizer: Path, run: Path) -> Fields:
    found = train_alone(fields, stores, run)
    first, last = found["held_out"]
    told = ", ".join(f"{name} {first[name]:.3f} -> {last[name]:.3f}" for name in ("accuracy", "margin", "loss"))
    judge = rewarded if fields["objective"]["kind"] == "reward" else judged
    found["judged"] = judge(export_alone(fields, run)["merged"], tokenizer, pairs)
    right = fmean(one["chosen"][0] > one["rejected"][0] for one in found["judged"])
    told += f", plainly {right:.3f}" if judge is rewarded else ""
    return found | {"told": f"{told} ({found['cpu_s']:.0f} CPU s)", "pairs": len(pairs)}


def tell(name: str, label: str, folds: list[Fields], befores: list[list[Judged]]) -> None:
    losses = [fmean(fold["held_out"][when]["loss"] for fold in folds) for when in (0, 1)]
    margins = [
        (0.0 if name == "reward" else gap(name, early, early), gap(name, late, early))
        for fold, before in zip(folds, befores, strict=False)
        for late, early in zip(fold["judged"], before, strict=True)
    ]
    right = [(0.5 if a == 0 else float(a > 0), 0.5 if b == 0 else float(b > 0)) for a, b in margins]
    cells = []
    for values in (right, margins):
        begun, ended = (fmean(one) for one in zip(*values, strict=True))
        rises = [b - a for a, b in values]
        cells.append((begun, ended, fmean(rises), stdev(rises) / math.sqrt(len(rises))))
    (a, b, rise, error), (c, d, gain, gain_error) = cells
    print(
        f"| {label} | {a:.1%} -> {b:.1%} | {rise * 100:+.1f} ± {error * 100:.1f} points | {c:.4f} -> {d:.4f} | "
        f"{gain:+.4f} ± {gain_error:.4f} | {losses[0]:.3f} -> {losses[1]:.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
