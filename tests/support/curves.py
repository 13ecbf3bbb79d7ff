"""Lines of metrics as runs write them, planned: a loss as a function of the step."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any


def cosine(step: int, count: int, warmup: int = 5) -> float:
    """The usual schedule, its peak at 1."""
    return min(1.0, step / warmup) * 0.5 * (1 + math.cos(math.pi * step / count))


def planned(
    loss: Callable[[int], float],
    count: int = 300,
    *,
    held_out: Mapping[int, float] | None = None,
    norm: Callable[[int], float] = lambda step: 1.0,
    noise: float = 0.03,
    skipped: tuple[int, ...] = (),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """noise: relative, of each step's loss and norm. Steps whose loss is planned as NaN have one."""
    dice = random.Random(seed)
    lines: list[dict[str, Any]] = []
    for step in range(1, count + 1):
        shaken = [value * (1 + dice.gauss(0, noise)) for value in (loss(step), norm(step))]
        line = {"kind": "step", "step": step, "loss": shaken[0], "grad_norm": shaken[1], "skipped": step in skipped}
        lines.append(line | {"learning_rate": 1e-3 * cosine(step, count)})
    evaluated = [{"kind": "eval", "step": step, "loss": value} for step, value in (held_out or {}).items()]
    return sorted([*lines, *evaluated], key=lambda line: line["step"])
