"""One training loop of train_speed.py, alone in its process: python train_speed_loops.py KIND FOLDER STEPS.

Every loop trains the same fresh model on the same samples, STEPS steps of about ROWS x LENGTH tokens, and writes one
line of JSON a step to FOLDER/KIND.jsonl: when it ended (`at`), real and target tokens; first a line of facts.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

ROWS, LENGTH, VOCABULARY = 4, 1024, 16_000
THREADS = int(os.environ.get("BENCH_THREADS", "2"))
"""Of one loop in all. raysft-2 has two workers of half as many, at least one each."""
PRECISION = os.environ.get("BENCH_PRECISION", "fp32")
"""fp32 or bf16: raysft keeps fp32 masters of bf16 weights, the others autocast fp32 weights, as their users do."""
SEED = 0
CONFIG = {
    "model_type": "llama",
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 7,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
ADAMW = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
TRAINER = {
    "use_cpu": True,
    "bf16": PRECISION == "bf16",
    "gradient_checkpointing": False,
    "learning_rate": ADAMW["lr"],
    "adam_beta2": 0.95,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch_fused",
    "dataloader_num_workers": 0,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "seed": SEED,
}
"""What TRL and transformers share; the rest stands where they are made."""


def recipe_fields(folder: Path, *, workers: int = 1, steps: int = 1) -> dict[str, Any]:
    """The recipe of raysft's loops."""
    return {
        "name": "prepared",
        "storage": str(folder / "storage"),
        "seed": SEED,
        "model": {"source": "random", "config": dict(CONFIG), "tokenizer": str(folder / "tokenizer")},
        "data": {
            "train": str(folder / "data.jsonl"),
            "columns": {"instruction": "question", "output": "answer"},
            "template": "chatml",
            "max_tokens": LENGTH,
        },
        "train": {"max_steps": steps, "rows_per_step": ROWS, "micro_batch_rows": 1, "precision": PRECISION},
        "optimizer": {"learning_rate": ADAMW["lr"], "weight_decay": 0.1, "schedule": "constant"},
        "parallel": {"zero": 0},
        "cluster": {"workers": workers, "cpus_per_worker": max(1, THREADS // workers)},
        "checkpoint": {"every_steps": 10_000},
        "export": {"merged": False, "adapter": False},
    }


class Log:
    """FOLDER/KIND.jsonl."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._stream = (folder / f"{kind}.jsonl").open("w", buffering=1)

    def line(self, **fields: Any) -> None:
        self._stream.write(json.dumps(fields) + "\n")

    def end(self) -> None:
        self.line(peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def rows_of_steps(folder: Path, steps: int) -> Iterator[list[Any]]:
    """The packed rows of each step, in the order in which raysft takes them."""
    from raysft.data.feed.rows import StoredRows
    from raysft.data.feed.step_plan import Order
    from raysft.data.store.parts import TokenStore

    rows = StoredRows(TokenStore.open((folder / "store").read_text()), Order(ROWS, SEED))
    for step in range(steps):
        found = rows.step(step)
        yield found.read(range(len(found.tokens)))


def samples(folder: Path) -> list[dict[str, list[int]]]:
    """Every sample of the store: input_ids, completion_mask (its targets)."""
    import numpy as np

    from raysft.data.store.parts import TokenStore

    store = TokenStore.open((folder / "store").read_text())
    found = []
    for row in store.read_rows(range(store.num_rows)):
        borders = np.cumsum(row.segment_fields["length"])[:-1]
        ids, targets = (np.split(row.token_fields[name], borders) for name in ("input_ids", "target"))
        for one, target in zip(ids, targets, strict=True):
            found.append({"input_ids": one.tolist(), "completion_mask": (target != 0).astype(int).tolist()})
    return found


def fresh_model(folder: Path) -> Any:
    """The weights that raysft's loops begin with."""
    from raysft.model.load import load_model
    from raysft.recipe.load import parse_recipe

    return load_model(parse_recipe(recipe_fields(folder)), vocab_size=VOCABULARY)


def leak(model: Any, batch: dict[str, Any]) -> float:
    """How far the logits of a row's second sample move when the tokens of its first are others."""
    import torch

    batch = {name: value for name, value in batch.items() if name != "labels"}
    second = int((batch["position_ids"][0] == 0).nonzero()[1])
    other = batch["input_ids"].clone()
    other[0, :second] = (other[0, :second] + 1) % VOCABULARY
    model.eval()
    with torch.no_grad():
        logits = [model(**{**batch, "input_ids": ids}, use_cache=False).logits for ids in (batch["input_ids"], other)]
    model.train()
    return float((logits[0] - logits[1])[0, second:].abs().max())


def bare(folder: Path, steps: int, log: Log) -> None:
    """PyTorch alone: packed rows, position ids that restart, logits of every token, fused AdamW."""
    import numpy as np
    import torch

    model = fresh_model(folder)
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW, fused=True)
    for step, rows in enumerate(rows_of_steps(folder, steps)):
        batches = []
        for row in rows:
            lengths = row.segment_fields["length"]
            ids, target = (torch.tensor(row.token_fields[name]).long() for name in ("input_ids", "target"))
            labels = torch.where(target != 0, ids, -100)
            positions = torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))
            batches.append({"input_ids": ids[None], "position_ids": positions[None], "labels": labels})
        if step == 0:
            told = {"leak": leak(model, batches[0]), "attention": model.config._attn_implementation}
            log.line(**told, loss="full logits")
        targets = sum(int((batch["labels"][1:] != -100).sum()) for batch in batches)
        for batch in batches:
            labels = batch.pop("labels")
            with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION == "bf16"):
                logits = model(**batch, use_cache=False).logits[0, :-1]
            (torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum") / targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        log.line(at=time.time(), tokens=sum(row.num_tokens for row in rows), targets=targets)
    log.end()


def _follow(trainer: Any, log: Log, micro_steps: int, real: Callable[[dict[str, Any]], int]) -> None:
    """Count what a Trainer's collator gives, and write a line after each of its steps."""
    from transformers import TrainerCallback

    counts: list[tuple[int, int]] = []
    collate = trainer.data_collator

    def counting(examples: Any) -> Any:
        batch = collate(examples)
        counts.append((real(batch), int((batch["labels"][:, 1:] != -100).sum())))
        return batch

    class Follow(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            mine = counts[(state.global_step - 1) * micro_steps : state.global_step * micro_steps]
            tokens, targets = (sum(column) for column in zip(*mine, strict=True))
            log.line(at=time.time(), tokens=tokens, targets=targets)

    trainer.data_collator = counting
    trainer.add_callback(Follow())


def trl(folder: Path, steps: int, log: Log) -> None:
    """TRL's SFTTrainer with its packing. One row a forward pass: more would be joined to one longer sequence."""
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=ROWS,
        packing=True,
        max_length=LENGTH,
        completion_only_loss=True,
        **TRAINER,
    )
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    data = Dataset.from_list(samples(folder))
    model = fresh_model(folder)
    trainer = SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    log.line(leak=leak(model, batch), attention=model.config._attn_implementation, loss=arguments.loss_type)
    _follow(trainer, log, ROWS, lambda batch: int(batch["input_ids"].numel()))
    trainer.train()
    log.end()


def padded(folder: Path, steps: int, log: Log) -> None:
    """transformers' Trainer: samples padded to the longest of their micro-batch."""
    import torch
    from transformers import Trainer, TrainingArguments

    each = 5  # samples that make about a row of real tokens

    def collate(examples: list[dict[str, list[int]]]) -> dict[str, Any]:
        width = max(len(example["input_ids"]) for example in examples)
        ids, mask = (torch.zeros(len(examples), width, dtype=torch.long) for _ in range(2))
        labels = torch.full((len(examples), width), -100)
        for line, example in enumerate(examples):
            length, tokens = len(example["input_ids"]), torch.tensor(example["input_ids"])
            ids[line, :length], mask[line, :length] = tokens, 1
            labels[line, :length] = torch.where(torch.tensor(example["completion_mask"]) != 0, tokens, -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=each,
        gradient_accumulation_steps=ROWS,
        remove_unused_columns=False,
        **TRAINER,
    )
    model = fresh_model(folder)
    trainer = Trainer(model, arguments, train_dataset=samples(folder), data_collator=collate)
    log.line(leak=0.0, attention=model.config._attn_implementation, loss="the model's own")
    _follow(trainer, log, ROWS, lambda batch: int(batch["attention_mask"].sum()))
    trainer.train()
    log.end()


def raysft(folder: Path, steps: int, log: Log, workers: int) -> None:
    """The whole of `raysft train`, from an empty run directory on a store that is there."""
    from raysft.recipe.load import parse_recipe
    from raysft.run.run import run_training
    from raysft.train.history.records import read_metrics

    name = f"workers-{workers}"
    shutil.rmtree(folder / "storage" / "runs" / name, ignore_errors=True)
    result = run_training(parse_recipe(recipe_fields(folder, workers=workers, steps=steps) | {"name": name}))
    log.line(leak=None, attention="checked by raysft before its first step", loss="raysft")
    for line in read_metrics(result.run):
        if line["kind"] == "step":
            log.line(at=line["at"], tokens=line["tokens"], targets=line["target_tokens"], step_s=line["step_s"])
            peak = line["peak_bytes"]
    log.line(peak_bytes=peak)


def plain(folder: Path, steps: int, log: Log) -> None:
    """The same engine and data in a process of its own: no Ray, no hooks, no records."""
    import torch
    import torch.distributed as dist

    from raysft.model.facts import read_facts
    from raysft.recipe.load import parse_recipe
    from raysft.recipe.resolve import resolve
    from raysft.train import worker
    from raysft.train.commits.checkpoint import begin_attempt
    from raysft.train.group import TorchGroup
    from raysft.train.prefetch import Prefetch
    from raysft.train.state import Outcome
    from raysft.train.worker_input import AttemptInput, WorkerContext

    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    dist.init_process_group("gloo", init_method=f"file://{folder}/plain-{os.getpid()}", rank=0, world_size=1)
    recipe = parse_recipe(recipe_fields(folder, steps=steps))
    resolved, cpu = resolve(recipe, read_facts(recipe), None), torch.device("cpu")
    run = str(folder / "storage" / "runs" / "plain")
    shutil.rmtree(run, ignore_errors=True)
    wire = AttemptInput(
        recipe=recipe.model_dump(mode="json"),
        run=run,
        tokenizer=str(folder / "tokenizer"),
        train_store=(folder / "store").read_text(),
        eval_stores={},
        num_replicas=resolved.num_replicas,
        sync=resolved.sync,
        token_flops=resolved.token_flops,
        square_flops=resolved.square_flops,
        total_steps=steps,
        steps_per_epoch=None,
        fingerprints={},
        stream_cpus=0,
        memory_plan="",
        profile_steps=0,
    )
    context = WorkerContext(wire, recipe, TorchGroup(cpu), cpu)
    attempt, restored = begin_attempt(run, context.group)
    setup = worker._try_set_up(context, attempt, restored, worker.ALONE)
    assert not isinstance(setup, Outcome), setup
    log.line(leak=None, attention="as raysft", loss="raysft")
    with closing(Prefetch(setup.batches, steps)) as batches:
        for step in range(steps):
            batch = batches(step)
            done = setup.engine.train_step(batch.micro_batches, batch.units, step=step, learning_rate=ADAMW["lr"])
            log.line(at=time.time(), tokens=done.tokens, targets=done.found.target_tokens)
    log.end()


LOOPS: dict[str, Callable[[Path, int, Log], None]] = {
    "bare": bare,
    "trl": trl,
    "padded": padded,
    "raysft-1": lambda folder, steps, log: raysft(folder, steps, log, 1),
    "raysft-2": lambda folder, steps, log: raysft(folder, steps, log, 2),
    "plain": plain,
}

if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", DS_ACCELERATOR="cpu")
    os.environ.update(OMP_NUM_THREADS=str(THREADS), RAY_USAGE_STATS_ENABLED="0", PYTHONWARNINGS="ignore")
    kind, where, steps_text = sys.argv[1:]
    if kind != "raysft-1" and kind != "raysft-2":
        import torch

        torch.set_num_threads(THREADS)
    LOOPS[kind](Path(where), int(steps_text), Log(Path(where), kind))
