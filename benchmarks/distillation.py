"""What a teacher is worth, and how much of it is in its likeliest tokens: a small student of few samples.

    python benchmarks/distillation.py TEACHER TOKENIZER questions.jsonl [--steps 100] [--only none,64,...]

TEACHER: a model that has not seen these questions (what jobs/pretrain.py made of others). One process, no Ray:
every student begins with the same weights, sees the same packed rows in the same order and steps by the same AdamW;
its loss is raysft's objective `distill` (`sft` for `none`), with the teacher's K likeliest tokens and the mass of all
others as its columns have them, or with all tokens (`all`), which no store would hold. Told: held-out cross-entropy,
and the share of the gain of `all` that K tokens give. What was measured is kept beside the teacher, a line a student.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from raysft.data.feed.collate import collate
from raysft.data.store.packed_rows import Row
from raysft.model.fast.loss_head import install_loss_head
from raysft.objectives.batch import on_device
from raysft.objectives.distill import make
from raysft.objectives.module import ObjectiveModule
from raysft.objectives.objective import Objective
from raysft.objectives.sft import make as make_sft
from raysft.recipe.sections.objective import DistillObjective, SftObjective

CPU, LENGTH, HELD_OUT, ROWS, RATE = torch.device("cpu"), 512, 120, 4, 3e-3
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


def likeliest(teacher: Any, samples: list[Sample], kept: int) -> dict[str, np.ndarray]:
    """Columns of one row: where a token is predicted, the teacher's likeliest tokens and their log p."""
    ids, log_probs = [], []
    with torch.no_grad():
        for tokens, _ in samples:
            logits = teacher(input_ids=torch.from_numpy(tokens).long()[None]).logits[0, :-1].float()
            found = torch.log_softmax(logits, -1).topk(kept)
            first = torch.zeros(1, kept)
            ids.append(torch.cat([first.long(), found.indices]).int().numpy())
            log_probs.append(torch.cat([first, found.values]).numpy())
    return {"teacher_ids": np.concatenate(ids), "teacher_log_probs": np.concatenate(log_probs)}


def objective_of(kept: int, share: float) -> Objective:
    """kept: 0 is no teacher. More tokens than a recipe takes are not refused here."""
    if not kept:
        return make_sft(SftObjective())
    section = DistillObjective(kind="distill", teachers=("teacher",), share=share)
    return make(section.model_copy(update={"teacher_top_k": kept}))


def student(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(1)
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 3}
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=LENGTH, tie_word_embeddings=True, **sizes)
    return LlamaForCausalLM(config)


def held_out_nll(model: Any, samples: list[Sample]) -> float:
    """Nats a target token, by plain transformers."""
    total, count = 0.0, 0
    with torch.no_grad():
        for tokens, target in samples:
            ids = torch.from_numpy(tokens).long()
            log_probs = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1].float(), -1)
            chosen = log_probs.gather(-1, ids[1:, None])[:, 0][torch.from_numpy(target[1:]).bool()]
            total, count = total - float(chosen.sum()), count + len(chosen)
    return total / count


def train(teacher: Any, samples: list[Sample], kept: int, share: float, steps: int) -> Any:
    objective = objective_of(kept, share)
    model = student(teacher.config.vocab_size)
    install_loss_head(model)
    module = ObjectiveModule(model, objective)
    rows = packed(samples)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    order = np.random.default_rng(0)
    shuffled: list[int] = []
    for step in range(steps):
        while len(shuffled) < ROWS:
            shuffled += order.permutation(len(rows)).tolist()
        chosen, shuffled = shuffled[:ROWS], shuffled[ROWS:]
        made = []
        for number in chosen:
            own = [samples[i] for i in rows[number]]
            made.append(row_of(own, likeliest(teacher, own, kept) if kept else {}))
        units = objective.units(made)
        batch = on_device(collate(made, 0, packing=True, fields=objective.columns), CPU)
        found = module(*batch.flat(objective.batch_columns))
        loss = torch.stack([t.weight * found.sums[t.name] / units[t.name] for t in objective.terms]).sum()
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("teacher", "tokenizer", "questions"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--only", default="none,16,64,256,all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = AutoModelForCausalLM.from_pretrained(options.teacher).eval()
    samples = samples_of(AutoTokenizer.from_pretrained(options.tokenizer), options.questions)
    own, others = samples[:-HELD_OUT], samples[-HELD_OUT:]
    kept = options.teacher.parent / "distillation.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(line["kept"], line["steps"], line["share"]): line["nll"] for line in lines}
    for name in options.only.split(","):
        key = (name, options.steps, options.share)
        if key not in done:
            began = time.monotonic()
            count = {"none": 0, "all": teacher.config.vocab_size}.get(name) if name in ("none", "all") else int(name)
            nll = held_out_nll(train(teacher, own, count or 0, options.share, options.steps), others)
            done[key] = nll
            with kept.open("a") as stream:
                line = {"kept": name, "steps": options.steps, "share": options.share, "nll": nll}
                stream.write(json.dumps(line) + "\n")
            print(f"{name}: {nll:.4f} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"\n{len(own)} samples, teacher's own held-out nll {held_out_nll(teacher, others):.4f}")
    print("| tokens of the teacher | held-out nll | gain | of the whole teacher's |\n|---|---|---|---|")
    without = done[("none", options.steps, options.share)]
    whole = without - done.get(("all", options.steps, options.share), math.nan)
    for (name, steps, share), nll in done.items():
        if (steps, share) == (options.steps, options.share):
            gain = without - nll
            print(f"| {name} | {nll:.4f} | {gain:+.4f} | {gain / whole:.1%} |")


if __name__ == "__main__":
    main()
