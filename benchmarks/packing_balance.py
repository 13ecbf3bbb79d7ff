"""`make bench-packing`: rows over the lower bound, time per sample, and time that replicas would wait.

The second table is a model (recipe/resolve.py's FLOPs), no measurement of steps.
`make bench-packing DATA=gsm8k_train.jsonl` adds real lengths: UTF-8 bytes / 4 of the records of that file.
Prints Markdown.
"""

from __future__ import annotations

import json
import os
import sys
import time
from bisect import bisect_left, insort
from pathlib import Path

import numpy as np

from raysft.data.feed.replica_balance import Sync, arrange, assign
from raysft.data.store.packing import pack

WINDOW = 16_384
RANKS, MICRO = 64, 8
MODELS = {"8B": (6 * 7.5e9, 6.0 * 32 * 4096), "0.6B": (6 * 0.596e9, 6.0 * 28 * 2048)}
"""(per token, per squared length): Llama 3 8B; Qwen3 0.6B, whose attention is 16 heads x 128."""


def chat_mix(capacity: int, num_samples: int = 200_000) -> np.ndarray:
    """Log-normal around 490 tokens; 5% around 5,400, which hold a third of all tokens at 16,384."""
    random = np.random.default_rng(0)
    lengths = random.lognormal(6.2, 0.9, num_samples)
    tail = random.random(num_samples) < 0.05
    lengths[tail] = random.lognormal(8.6, 0.7, int(tail.sum()))
    return np.clip(lengths, 8, capacity).astype(np.int64)


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> int:
    """Rows of the textbook algorithm, which is what TRL's `bfd` does."""
    spaces: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        at = bisect_left(spaces, length)
        space = spaces.pop(at) if at < len(spaces) else capacity
        insort(spaces, space - length)
    return len(spaces)


def packing_table(files: dict[str, tuple[np.ndarray, int]]) -> None:
    """One line per file of lengths, packed whole or in windows."""
    print("| lengths | capacity | samples | packed in | bound | best-fit decreasing | rows | allowed | us / sample |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (lengths, capacity) in files.items():
        windows = [lengths[start : start + WINDOW] for start in range(0, len(lengths), WINDOW)]
        bounds = [-(-int(window.sum()) // capacity) for window in windows]
        allowed = sum(int(1.001 * bound + 1) for bound in bounds)
        textbook = sum(best_fit_decreasing(window, capacity) for window in windows)
        times = []
        for _ in range(5):
            started = time.process_time()
            rows = [len(pack(window, capacity)) for window in windows]
            times.append(time.process_time() - started)
        worst = max(row - int(1.001 * bound + 1) for row, bound in zip(rows, bounds, strict=True))
        assert worst <= 0, f"{name}: {worst} rows too many in a window"
        cells = (name, capacity, f"{len(lengths):,}", f"{len(windows)} window(s)", sum(bounds), textbook, sum(rows))
        print("| " + " | ".join(map(str, cells)) + f" | {allowed} | {min(times) / len(lengths) * 1e6:.2f} |")


def waiting(costs: np.ndarray, places: np.ndarray, sync: Sync) -> tuple[float, float]:
    """(time of a step, the same with perfect balance) of places [replicas, micro, rows], all of them filled."""
    work = costs[places].sum(axis=2)
    return float(work.sum(axis=1).max() if sync == "step" else work.max(axis=0).sum()), float(work.sum() / RANKS)


def balance_table(lengths: np.ndarray, capacity: int) -> None:
    """Share of the time of all ranks that is spent waiting, over all whole steps of an epoch."""
    tokens, squares = [], []
    for start in range(0, len(lengths), WINDOW):
        window = lengths[start : start + WINDOW]
        for row in pack(window, capacity):
            tokens.append(window[row].sum())
            squares.append((window[row] ** 2).sum())
    size = RANKS * MICRO
    shuffled = np.random.default_rng(1).permutation(len(tokens))
    arranged = arrange(shuffled, np.array(squares), size)
    print(
        f"\n{len(tokens)} rows of {capacity:,} tokens, {RANKS} ranks, {MICRO} micro-batches of a row, steps of {size}"
    )
    print(
        "| model | ranks wait once per | random | rows of a random step, assigned | arranged, assigned | ms / step |"
    )
    print("|---|---|---|---|---|---|")
    for model, (per_token, per_square) in MODELS.items():
        costs = per_token * np.array(tokens) + per_square * np.array(squares)
        syncs: tuple[Sync, ...] = ("step", "micro_batch")
        for sync in syncs:
            found, spent = [], 0.0
            for order, is_random in ((shuffled, True), (shuffled, False), (arranged, False)):
                times = np.zeros(2)
                for start in range(0, len(costs) - size + 1, size):
                    step = costs[order[start : start + size]]
                    began = time.process_time()
                    places = np.arange(size).reshape(RANKS, MICRO, 1) if is_random else assign(step, RANKS, 1, sync)
                    spent = max(spent, time.process_time() - began)
                    times += waiting(step, places, sync)
                found.append(f"{100 * (1 - times[1] / times[0]):.2f}%")
            print(f"| {model} | {sync} | " + " | ".join(found) + f" | {spent * 1e3:.1f} at most |")


def main() -> None:
    """Both tables."""
    files: dict[str, tuple[np.ndarray, int]] = {}
    for path in map(Path, sys.argv[1:]):
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        lengths = [
            10 + len("".join(v for v in record.values() if isinstance(v, str)).encode()) // 4 for record in records
        ]
        files |= {f"{path.stem} at {capacity}": (np.array(lengths), capacity) for capacity in (1024, 2048)}
    files |= {f"chat mix, 5% long, at {capacity}": (chat_mix(capacity), capacity) for capacity in (4096, 16_384)}
    print(f"load average {os.getloadavg()[0]:.1f}; best of 5\n")
    packing_table(files)
    balance_table(chat_mix(16_384), 16_384)


if __name__ == "__main__":
    main()
