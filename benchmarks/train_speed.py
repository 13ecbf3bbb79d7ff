"""`make bench-train DATA=gsm8k_train.jsonl`: raysft against the loops that people would otherwise use, in turn.

    python benchmarks/train_speed.py gsm8k_train.jsonl [--peers FOLDER] [--repeats 5] [--steps 3] [--only a,b]

bare      a PyTorch loop, packed rows, logits of every token       trl       TRL's SFTTrainer, packing on
padded    transformers' Trainer, padded batches                    raysft-1  `raysft train`, 1 worker with 2 threads
raysft-2  `raysft train`, 2 workers with 1 thread each             plain     the engine of raysft-1 without Ray

All train the same fresh 19M-parameter Llama (16k vocabulary, tied) in fp32 (BENCH_PRECISION=bf16: in bf16) on the
same samples, rows of 1,024, about 4,096 tokens a step, AdamW. Each repeat runs them one after the other, each in a
fresh process: a step to warm up, then STEPS steps on the clock. Printed: median and range over the repeats. On a
shared machine only the ratios, taken within a repeat, mean anything; what records and hooks cost is also measured in
raysft, as the share of time outside its steps. BENCH_THREADS=1 gives every loop one thread: on a busy machine two
threads wait for each other. CPU-seconds are those of the process and all its descendants (Ray's own included).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from data_pipeline import cpu_seconds
from train_speed_loops import LENGTH, LOOPS, PRECISION, THREADS, VOCABULARY, recipe_fields

from raysft.runtime.join import OMP_SPIN_COUNT

HERE = Path(__file__).parent
GEMM = (
    "import torch; from raysft.train.watch.peak import measured_peak; "
    f"torch.set_num_threads({THREADS}); "
    f"print(measured_peak(torch.device('cpu'), torch.{'bfloat16' if PRECISION == 'bf16' else 'float32'}, 2.0))"
)


def make_material(folder: Path, data: Path) -> float:
    """Data, tokenizer and token store, once. Returns FLOPs per real token, attention included."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(data, folder / "data.jsonl")
    fields = json.dumps(recipe_fields(folder))
    program = f"""
import json, sys
from pathlib import Path
from raysft.data.text.tokenizer import train_tokenizer
from raysft.model.facts import read_facts
from raysft.run.layout_choice import with_vocabulary
from raysft.run.data_steps import prepare_data
from raysft.recipe.load import parse_recipe
from raysft.recipe.resolve import resolve
from raysft.data.store.parts import TokenStore
fields = json.loads(sys.argv[1])
tokenizer = fields["model"]["tokenizer"]
if not Path(tokenizer).exists():
    train_tokenizer([fields["data"]["train"]], columns=fields["data"]["columns"], vocab_size={VOCABULARY},
                    template="chatml", out=tokenizer)
recipe = parse_recipe(fields)
prepared = prepare_data(recipe)
Path(tokenizer).with_name("store").write_text(prepared.train)
run = resolve(recipe, read_facts(with_vocabulary(recipe)), None)
tokens, squares = TokenStore.open(prepared.train).row_sizes()
print(run.token_flops + run.square_flops * squares.sum() / tokens.sum())
"""
    done = subprocess.run([sys.executable, "-c", program, fields], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return float(done.stdout.split()[-1])


def measure(kind: str, folder: Path, steps: int, peers: str | None) -> dict[str, Any]:
    """One loop in a process of its own: what it did per second, its peak memory and its CPU time."""
    environment = dict(os.environ)
    if kind == "plain":
        environment["GOMP_SPINCOUNT"] = (
            OMP_SPIN_COUNT  # as raysft gives its workers; the others run as their users run them
        )
    if kind in ("trl", "padded") and peers:
        environment["PYTHONPATH"] = os.pathsep.join([peers, environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "train_speed_loops.py"), kind, str(folder), str(steps + 1)]
    used: list[tuple[float, float]] = []
    with (folder / f"{kind}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(1.0):  # looking costs time, the more the more processes there are
                used.append((time.time(), cpu_seconds(process.pid)))

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            process.wait(timeout=1800)
        finally:
            ended.set()
            sampler.join()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        sys.exit((folder / f"{kind}.log").read_text()[-3000:])
    lines = [json.loads(line) for line in (folder / f"{kind}.jsonl").read_text().splitlines()]
    on_clock = [line for line in lines if "at" in line][-steps - 1 :]
    began, end = on_clock[0]["at"], on_clock[-1]["at"]
    tokens, targets = (sum(line[name] for line in on_clock[1:]) for name in ("tokens", "targets"))
    return {
        "facts": lines[0],
        "tokens_per_s": tokens / (end - began),
        "targets_per_s": targets / (end - began),
        "step_s": (end - began) / steps,
        "outside_steps": 1 - sum(line.get("step_s", 0.0) for line in on_clock[1:]) / (end - began),
        "cpu_s_per_1k": (at(used, end) - at(used, began)) / tokens * 1000,
        "peak_gib": max(line.get("peak_bytes", 0) for line in lines) / 2**30,
        "load": os.getloadavg()[0],
    }


def at(samples: list[tuple[float, float]], moment: float) -> float:
    """The sampled value at a moment, between its neighbours."""
    before = max((s for s in samples if s[0] <= moment), default=samples[0])
    after = min((s for s in samples if s[0] >= moment), default=samples[-1])
    share = (moment - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0.0
    return before[1] + share * (after[1] - before[1])


def told(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def report(rounds: list[dict[str, dict[str, Any]]], flops_per_token: float) -> None:
    """The table, then the ratios within each round."""
    print(
        "\n| loop | real tokens/s | target tokens/s | of the GEMM peak | CPU-s per 1k tokens | peak RSS, GiB | load |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind in rounds[0]:
        if kind == "gemm":
            continue
        ones = [found[kind] for found in rounds]
        share = [found[kind]["tokens_per_s"] * flops_per_token / found["gemm"]["flops"] for found in rounds]
        columns = [
            told([one["tokens_per_s"] for one in ones], ",.0f"),
            told([one["targets_per_s"] for one in ones], ",.0f"),
            told(share, ".0%"),
            told([one["cpu_s_per_1k"] for one in ones], ".2f"),
            told([one["peak_gib"] for one in ones], ".2f"),
            told([one["load"] for one in ones], ".1f"),
        ]
        print(f"| {kind} | " + " | ".join(columns) + " |")
    print(f"\nGEMM peak: {told([found['gemm']['flops'] / 1e9 for found in rounds], ',.0f')} GFLOP/s")
    if "raysft-1" in rounds[0]:
        shares = [found["raysft-1"]["outside_steps"] for found in rounds]
        print(f"raysft-1, time outside its steps (records, hooks): {told(shares, '.2%')}   goal <= 1%")
    for ours, theirs, key, goal in (
        ("raysft-1", "trl", "tokens_per_s", ">= 2.0" if PRECISION == "fp32" else ">= 3.5"),
        ("raysft-1", "bare", "tokens_per_s", ">= 1.0"),
        ("raysft-1", "padded", "tokens_per_s", "-"),
        ("raysft-2", "raysft-1", "tokens_per_s", "-"),
        ("raysft-1", "trl", "peak_gib", "< 1"),
        ("raysft-1", "plain", "step_s", "<= 1.01"),
        ("raysft-1", "plain", "cpu_s_per_1k", "<= 1.01"),
    ):
        if ours in rounds[0] and theirs in rounds[0]:
            ratios = [found[ours][key] / found[theirs][key] for found in rounds]
            print(f"{key}: {ours} / {theirs} = {told(ratios, '.3f')}   goal {goal}")


def stop(number: int, frame: object) -> None:
    """So that `finally` ends the loop that is running."""
    sys.exit(128 + number)


def main() -> None:
    signal.signal(signal.SIGTERM, stop)
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--peers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", default=",".join(LOOPS))
    parser.add_argument("--folder", type=Path, default=Path("build/bench-train"))
    parser.add_argument("--go-on", action="store_true", help="add to the rounds of an earlier call")
    options = parser.parse_args()
    folder = options.folder.absolute()
    flops_per_token = make_material(folder, options.data)
    kinds = options.only.split(",")
    print(f"{flops_per_token / 1e6:.1f} MFLOP per real token; rows of {LENGTH}; {THREADS} threads; {PRECISION}")
    kept = folder / "rounds.jsonl"
    if not options.go_on:
        kept.unlink(missing_ok=True)
    for number in range(options.repeats):
        gemm = subprocess.run([sys.executable, "-c", GEMM], capture_output=True, text=True, check=True)
        found: dict[str, dict[str, Any]] = {"gemm": {"flops": float(gemm.stdout.split()[-1])}}
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            found[kind] = measure(kind, folder, options.steps, options.peers)
            print(f"round {number + 1} {kind}: {json.dumps(found[kind])}", flush=True)
        with kept.open("a") as stream:
            stream.write(json.dumps({name: found[name] for name in ["gemm", *kinds]}) + "\n")
    report([json.loads(line) for line in kept.read_text().splitlines()], flops_per_token)


if __name__ == "__main__":
    main()
