"""The first thing a run does: passes at the largest row, so that what does not fit shows in seconds, not in hours.

The passes go through the engine itself, with units that are not a number: the gradients are not finite, and the
engine drops them as it always does. So all of its memory and communication is there, and nothing is changed.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from raysft.engine.protocol import Engine
from raysft.errors import ModelError, TrainingError
from raysft.objectives.batch import HostBatch
from raysft.train.group import Group
from raysft.train.history.failures import is_out_of_memory

logger = logging.getLogger(__name__)

AGREE_WITHIN_S = 120.0
"""Ranks run the same passes, so they end, or run out of memory, at nearly the same time."""


class Closable(Engine, Protocol):
    """An engine that can be taken down to be built again."""

    def close(self) -> None: ...


E = TypeVar("E", bound=Closable)


@dataclass(frozen=True)
class Largest:
    """What can come at most. The passes are made of it."""

    micro_batches: Callable[[int], Sequence[HostBatch]]
    """Rows of a forward pass -> as many passes as are in memory at once, full rows, every token a target."""
    rows: int
    """Rows of one forward pass, as the recipe has it."""
    terms: Sequence[str]
    """Names of the loss's units."""
    may_halve: bool
    """parallel.auto_micro_batch."""
    plan: str
    """What the memory was planned for, for the one who reads the error."""


@dataclass(frozen=True)
class Probed:
    """How it went."""

    micro_batch_rows: int
    """That fitted into memory on every rank."""
    probe_s: float


def fit(build: Callable[[int], E], largest: Largest, group: Group, device: torch.device) -> tuple[E, Probed]:
    """build(rows of a forward pass) -> an engine that has run them. Fewer rows where they do not fit, if allowed.

    Raises ModelError (on every rank) when they do not fit, TrainingError when only this rank ran out of memory.
    """
    rows = largest.rows
    while True:
        engine = build(rows)
        held, started = _held_gib(device), time.perf_counter()
        told = _pass(engine, largest, rows)
        if _all_fit(group, told):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)  # from here on it is that of steps, not of loading
            return engine, Probed(rows, time.perf_counter() - started)
        if rows == 1 or not largest.may_halve:
            raise _does_not_fit(largest, rows, f"{told or 'another worker ran out of memory'}; {held}")
        logger.warning("%d rows in a forward pass do not fit into memory: trying %d", rows, rows // 2)
        engine.close()
        del engine
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        rows //= 2


def _pass(engine: Engine, largest: Largest, rows: int) -> str:
    """Forward and backward passes, no update. Returns what memory ran out with."""
    micro_batches = largest.micro_batches(rows)
    generator_state = torch.get_rng_state()
    try:
        engine.train_step(micro_batches, dict.fromkeys(largest.terms, math.nan), step=0, learning_rate=0.0)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return " ".join(str(error).split())[:300] or type(error).__name__
    finally:
        torch.set_rng_state(generator_state)
    return ""


def _all_fit(group: Group, told: str) -> bool:
    """Collective. A rank that ran out alone finds the others waiting for it in the middle of a pass."""
    try:
        return group.all_true_within(not told, AGREE_WITHIN_S)
    except RuntimeError as error:
        if not told:
            raise
        raise TrainingError(
            "this worker ran out of memory, the others did not",
            got=told,
            expected="workers with equal memory, of which nobody else takes any",
            fix="lower train.micro_batch_rows, or free the memory on this node",
        ) from error


def _does_not_fit(largest: Largest, rows: int, got: str) -> ModelError:
    return ModelError(
        "the largest rows that can come do not fit into memory",
        got=f"{rows} rows in a forward pass: {got}",
        expected=largest.plan,
        fix="set parallel.auto_micro_batch: true or train.micro_batch_rows lower (the global step stays as it is)"
        if rows > 1
        else "set train.gradient_checkpointing: true, a higher parallel.zero, or data.max_tokens lower",
    )


def _held_gib(device: torch.device) -> str:
    """Memory before the passes."""
    if device.type != "cuda":
        return "on CPU"
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_allocated(device)
    sizes = [f"{size / 2**30:.1f}" for size in (held, total - free, total)]
    return f"before it {sizes[0]} GiB were held by weights and optimizer, {sizes[1]} of {sizes[2]} GiB by all"
