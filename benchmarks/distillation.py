"""What a teacher is worth, and how much of it is in its likeliest tokens: a small student of few samples.

    python benchmarks/distillation.py TEACHER TOKENIZER questions.jsonl [--folder build/distillation]
        [--steps 160] [--share 0.5] [--seeds 2] [--only none,64,48+16,all] [--processes 2]

TEACHER: a model that has not seen these questions (what jobs/pretrain.py made of others). No Ray, a process each:
every student of a seed begins with the same weights, sees the same packed rows in the same order and steps by the
same Muon; its loss is raysft's objective `distill` (`sft` for `none`), with the teacher's K likeliest tokens and
the mass of all others as its columns have them, with J of K tokens drawn (`48+16`, objective.teacher_draws), or
with all tokens (`all`), which no store would hold. Told: cross-entropy of the answers to the last 120 questions, by
plain transformers, and the share of the gain of `all` that K tokens give. Standard errors are over these questions,
of each one's own difference in the mean of the seeds.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alone import Cells, Fields, quiet
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from raysft.data.feed.collate import collate
from raysft.data.store.packed_rows import Row
from raysft.evaluate.teachers import kept_tokens
from raysft.model.fast.loss_head import install_loss_head
from raysft.objectives.batch import on_device
from raysft.objectives.distill import make
from raysft.objectives.module import ObjectiveModule
from raysft.objectives.objective import Objective
from raysft.objectives.sft import make as make_sft
from raysft.recipe.sections.objective import DistillObjective, SftObjective

CPU, LENGTH, HELD_OUT, ROWS, RATE = torch.device("cpu"), 512, 120, 4, 5e-3
KEPT_ROWS = 512
"""Tokens of a teacher over which its columns are computed anew each time: they would fill the memory."""
Sample = tuple[np.ndarray, np.ndarray]
"""(token ids, 1 where they are trained)."""


def samples_of(tokenizer: Any, path: Path) -> list[Sample]:
    found = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        asked = [{"role": "user", "content": record["question"]}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        told = tokenizer.apply_chat_template(
            [*asked, {"role": "assistant", "content": record["answer"]}], tokenize=False
        )
        before, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, told))
        if len(ids) <= LENGTH:
            target = np.arange(len(ids)) >= len(before)
            found.append((np.array(ids, np.int32), target.astype(np.float32)))
    return found


def packed(samples: list[Sample]) -> list[list[int]]:
    """Samples of each row, in their order."""
    rows: list[list[int]] = [[]]
    room = LENGTH
    for i, (ids, _) in enumerate(samples):
        if len(ids) > room:
            rows.append([])
            room = LENGTH
        rows[-1].append(i)
        room -= len(ids)
    return rows


def row_of(samples: list[Sample], columns: dict[str, np.ndarray]) -> Row:
    count = len(samples)
    return Row(
        {
            "input_ids": np.concatenate([ids for ids, _ in samples]),
            "target": np.concatenate([target for _, target in samples]),
            **columns,
        },
        {
            "length": np.array([len(ids) for ids, _ in samples], np.int32),
            "sample_id": np.arange(count),
            "atom": np.arange(count, dtype=np.int32),
        },
        {},
    )


def kept_columns(teacher: Any, samples: list[Sample], kept: int, draws: int) -> dict[str, np.ndarray]:
    """Columns of one row: where a token is predicted, the tokens that are kept of the teacher and their log p."""
    ids, log_probs = [], []
    with torch.no_grad():
        for tokens, _ in samples:
            logits = teacher(input_ids=torch.from_numpy(tokens).long()[None]).logits[0, :-1].float()
            values = torch.log_softmax(logits, -1)
            chosen = torch.arange(values.shape[-1]).expand_as(values)
            if kept < values.shape[-1]:
                offsets = torch.rand(len(values), generator=torch.Generator().manual_seed(len(tokens)))
                chosen, values = kept_tokens(values, kept, draws, offsets)
            first = torch.zeros(1, kept)
            ids.append(torch.cat([first.long(), chosen]).int().numpy())
            log_probs.append(torch.cat([first, values]).numpy())
    return {"teacher_ids": np.concatenate(ids), "teacher_log_probs": np.concatenate(log_probs)}


def objective_of(kept: int, share: float) -> Objective:
    """kept: 0 is no teacher. More tokens than a recipe takes are not refused here."""
    if not kept:
        return make_sft(SftObjective())
    section = DistillObjective(kind="distill", teachers=("teacher",), share=share)
    return make(section.model_copy(update={"teacher_top_k": kept}))


def student(vocabulary: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 3}
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=LENGTH, tie_word_embeddings=True, **sizes)
    return LlamaForCausalLM(config)


def nlls(model: Any, samples: list[Sample]) -> list[tuple[float, int]]:
    """(nats, target tokens) of each, by plain transformers."""
    found = []
    with torch.no_grad():
        for tokens, target in samples:
            ids = torch.from_numpy(tokens).long()
            log_probs = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1].float(), -1)
            chosen = log_probs.gather(-1, ids[1:, None])[:, 0][torch.from_numpy(target[1:]).bool()]
            found.append((-float(chosen.sum()), len(chosen)))
    return found


def optimizers_of(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for embeddings and norms, at one learning rate (arXiv:2502.16982)."""
    inner = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    matrices = {id(parameter) for parameter in inner}
    others = [parameter for parameter in model.parameters() if id(parameter) not in matrices]
    return [
        torch.optim.Muon(inner, lr=RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True),
    ]


def train(teacher: Any, samples: list[Sample], arm: str, share: float, steps: int, seed: int) -> Any:
    kept, draws = tokens_of(arm, teacher.config.vocab_size)
    objective = objective_of(kept, share)
    model = student(teacher.config.vocab_size, seed)
    install_loss_head(model)
    module = ObjectiveModule(model, objective)
    rows = packed(samples)
    optimizers = optimizers_of(model)
    order = np.random.default_rng(seed)
    shuffled: list[int] = []
    columns: dict[int, dict[str, np.ndarray]] = {}
    for step in range(steps):
        while len(shuffled) < ROWS:
            shuffled += order.permutation(len(rows)).tolist()
        chosen, shuffled = shuffled[:ROWS], shuffled[ROWS:]
        made = []
        for number in chosen:
            own = [samples[i] for i in rows[number]]
            if kept and number not in columns:
                columns[number] = kept_columns(teacher, own, kept, draws)
            made.append(row_of(own, columns[number] if kept else {}))
            if kept > KEPT_ROWS:
                columns.clear()
        units = objective.units(made)
        batch = on_device(collate(made, 0, packing=True, fields=objective.columns), CPU)
        found = module(*batch.flat(objective.batch_columns))
        loss = torch.stack([t.weight * found.sums[t.name] / units[t.name] for t in objective.terms]).sum()
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = (
                RATE * min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / steps)) / 2
            )
            optimizer.step()
    return model


def tokens_of(arm: str, vocabulary: int) -> tuple[int, int]:
    """(how many tokens are kept, how many of these are drawn)."""
    if arm in ("none", "all"):
        return (vocabulary if arm == "all" else 0), 0
    likeliest, _, drawn = arm.partition("+")
    return int(likeliest) + int(drawn or 0), int(drawn or 0)


def measured(
    teacher: Any, own: list[Sample], others: list[Sample], arm: str, options: Any, seed: int, run: Path
) -> Fields:
    found = nlls(train(teacher, own, arm, options.share, options.steps, seed), others)
    return {"nlls": found, "told": f"{mean(found):.4f}"}


def mean(found: list[tuple[float, int]]) -> float:
    """Nats a target token."""
    return sum(nats for nats, _ in found) / sum(count for _, count in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("teacher", "tokenizer", "questions"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/distillation"))
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="none,64,48+16,all")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    teacher = AutoModelForCausalLM.from_pretrained(options.teacher).eval()
    samples = samples_of(AutoTokenizer.from_pretrained(options.tokenizer), options.questions)
    own, others = samples[:-HELD_OUT], samples[-HELD_OUT:]
    cells, names = Cells(options.folder.absolute(), options.processes), options.only.split(",")
    cells.run({"teacher": lambda run: {**sureness(teacher, others), "told": mean(nlls(teacher, others))}})
    arms: dict[str, list[str]] = {name: [] for name in names}
    work = {}
    for seed in range(1, options.seeds + 1):
        for name in names:
            arms[name].append(f"{name} / {options.steps} steps / share {options.share} / seed {seed}")
            work[arms[name][-1]] = functools.partial(measured, teacher, own, others, name, options, seed)
    cells.run(work)
    table(cells, arms, len(own))


def sureness(teacher: Any, samples: list[Sample]) -> Fields:
    """The teacher's own nll, and how much of its probability is in its likeliest tokens, where targets are."""
    mass = {16: 0.0, 64: 0.0, 256: 0.0}
    count = 0
    with torch.no_grad():
        for tokens, target in samples:
            probs = teacher(input_ids=torch.from_numpy(tokens).long()[None]).logits[0, :-1].float().softmax(-1)
            probs = probs[torch.from_numpy(target[1:]).bool()]
            count += len(probs)
            for kept in mass:
                mass[kept] += float(probs.topk(kept).values.sum())
    return {"nll": mean(nlls(teacher, samples)), "mass": {str(kept): value / count for kept, value in mass.items()}}


def table(cells: Cells, arms: dict[str, list[str]], samples: int) -> None:
    found = {name: [cells.done[cell]["nlls"] for cell in own] for name, own in arms.items()}
    told = cells.done["teacher"]
    mass = ", ".join(f"{value:.1%} in {kept}" for kept, value in told["mass"].items())
    print(f"\n{samples} samples; the teacher's own held-out nll {told['nll']:.4f}, its mass {mass} tokens")
    counts = np.array([count for _, count in found["none"][0]], float)
    nats = {
        name: np.array([[n for n, _ in seed] for seed in seeds]) for name, seeds in found.items()
    }  # [seed, question]

    def gain(name: str, than: str) -> tuple[float, float]:
        """(nats a token less than another, its standard error over questions), in the mean of seeds."""
        less = (nats[than] - nats[name]).mean(0)
        value = less.sum() / counts.sum()
        return value, math.sqrt(((less - value * counts) ** 2).sum() * len(less) / (len(less) - 1)) / counts.sum()

    print("| tokens of the teacher | held-out nll, each seed | gain | of the whole teacher's |\n|---|---|---|---|")
    for name, seeds in found.items():
        each = ", ".join(f"{mean(one):.4f}" for one in seeds)
        value, error = gain(name, "none")
        share = ""
        if "all" in found and name != "none":
            whole, (less, its) = gain("all", "none")[0], gain("all", name)
            share = f"{value / whole:.1%} (less by {less:.4f} ± {its:.4f})"
        print(f"| {name} | {each} | {value:+.4f} ± {error:.4f} | {share} |")


if __name__ == "__main__":
    main()
