"""Small commits, as so many ranks make them."""

from __future__ import annotations

from functools import partial

import torch
from fakes import FakeGroup
from torch import Tensor
from whole_state import Still, shared_out

from raysft.train.commits.lineage import Attempt
from raysft.train.commits.writer import Retention, Writer
from raysft.train.state import TrainState


def tensors(value: float) -> dict[str, Tensor]:
    """A small state whose every number depends on `value`."""
    generator = torch.Generator().manual_seed(int(value))
    state = {"adam_step": torch.tensor(value)}
    for kind in ("weight", "exp_avg", "exp_avg_sq"):
        for name in ("a.weight", "b.bias"):
            state[f"{kind}:{name}"] = torch.randn(5, 3, generator=generator)
    return state


def commit(run: str, attempt: Attempt, step: int, *, size: int = 2, keep_last: int = 99) -> None:
    """What `size` ranks do to commit a step."""
    save(run, attempt, step, tensors(step), size=size, keep_last=keep_last)


def save(
    run: str, attempt: Attempt, step: int, state: dict[str, Tensor], *, size: int = 2, keep_last: int = 99
) -> None:
    """The same with a state of its own."""
    writers = []
    for rank in range(size):
        retention = Retention(keep_last)
        writer = Writer(run, attempt, FakeGroup(rank, size), retention=retention, facts={"who": "test"}, patience_s=9)
        writer.save(Still(partial(shared_out, state, rank, size)), TrainState(step=step))
        writers.append(writer)
    for writer in writers:
        writer.finish()
