"""Collective acts of two ranks, which are two processes: what one says, both know."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raysft.train.group import TorchGroup

SIZE = 2


def _rank(store: str, rank: int, act: Callable[[TorchGroup], Any], found: Any) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(store, SIZE), rank=rank, world_size=SIZE)
    found.put((rank, act(TorchGroup(torch.device("cpu")))))


@pytest.fixture
def together(tmp_path: Path) -> Callable[[Callable[[TorchGroup], Any]], list[Any]]:
    """What an act returns on each rank."""

    def run(act: Callable[[TorchGroup], Any]) -> list[Any]:
        context = multiprocessing.get_context("fork")
        found = context.Queue()
        ranks = [context.Process(target=_rank, args=(str(tmp_path / "store"), r, act, found)) for r in range(SIZE)]
        for process in ranks:
            process.start()
        answers = dict(found.get(timeout=60) for _ in ranks)
        for process in ranks:
            process.join(10)
        return [answers[rank] for rank in range(SIZE)]

    return run


def test_all_know_the_same(together: Any) -> None:
    def act(group: TorchGroup) -> dict[str, Any]:
        group.barrier()
        return {
            "place": (group.rank, group.size),
            "first": group.from_rank_0(10**12 + group.rank),
            "both": group.all_true(True),
            "one": group.all_true(group.rank == 0),
            "none": group.all_true(False),
            "apart": group.all_true_within(group.rank == 1, 20.0),
            "sum": group.sum(0.1 + group.rank),
        }

    for rank, found in enumerate(together(act)):
        assert found.pop("place") == (rank, SIZE)
        assert found.pop("sum") == pytest.approx(1.2, rel=1e-15), "float64"
        assert found == {"first": 10**12, "both": True, "one": False, "none": False, "apart": False}


def test_a_rank_that_does_not_come_is_not_waited_for_without_end(together: Any) -> None:
    def act(group: TorchGroup) -> str:
        if group.rank == 1:
            dist.new_group(backend="gloo")  # it makes the group, and then does something else
            return (group.sum(1.0) == 2.0 and "busy") or "lost"
        try:
            group.all_true_within(True, 0.5)
            return "answered"
        except RuntimeError:
            return f"given up, {group.sum(1.0):g}"

    assert together(act) == ["given up, 2", "busy"]
