"""Who did not arrive: by traces written by hand, and by those of two processes of gloo of which one stays away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raysft.train.watch.flight_recorder import Missing, missing
from raysft.train.watch.watchdog import HUNG_EXIT_CODE, missing_ranks

ALL = ["0", "default_pg"]


def trace(*entries: tuple[list[str], int, bool]) -> bytes:
    """Of one rank: (group, number, has it ended)."""
    found: list[dict[str, Any]] = [
        {
            "process_group": group,
            "collective_seq_id": number,
            "retired": ended,
            "profiling_name": "nccl:all_reduce",
            "is_p2p": False,
        }
        for group, number, ended in entries
    ]
    return json.dumps({"entries": found}).encode()


WAITS, AWAY = trace((ALL, 7, True), (ALL, 8, False)), trace((ALL, 7, True))
PAIR = ["3", "tensor of 2 and 3"]
PAIR_WAITS, PAIR_AWAY = trace((ALL, 7, True), (PAIR, 5, False)), trace((ALL, 7, True), (PAIR, 4, True))


@pytest.mark.parametrize(
    ("traces", "ranks", "expected"),
    [
        ({0: WAITS, 1: AWAY, 2: WAITS}, 3, (1,)),
        ({0: WAITS, 1: AWAY, 2: AWAY}, 3, (1, 2)),
        ({0: WAITS, 2: WAITS}, 3, (1,)),  # stopped: it left nothing
        ({0: WAITS, 1: WAITS}, 2, None),  # all arrived: a link, or a device
        ({0: AWAY, 1: AWAY}, 2, None),  # nobody waits: a disk
        ({}, 2, None),
        ({0: WAITS, 1: b"{torn"}, 2, None),
        ({0: AWAY, 1: AWAY, 2: PAIR_WAITS, 3: PAIR_AWAY}, 4, (3,)),
    ],
)
def test_by_hand(traces: dict[int, bytes], ranks: int, expected: tuple[int, ...] | None) -> None:
    found = missing(traces, ranks)
    assert (found.ranks if found else None) == expected


def test_words() -> None:
    told = str(missing({0: WAITS, 1: AWAY}, 2))
    assert told == "rank 1 did not arrive at nccl:all_reduce no. 8 of default_pg, where the others wait"
    assert str(Missing((1, 4), "gloo:all_gather", 2, "p")).startswith("ranks 1, 4 did not")


PROGRAM = """
import sys, threading
import torch, torch.distributed as dist
from raysft.train.watch import watchdog
run, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{run}/store", rank=rank, world_size=2)
for _ in range(3):
    dist.all_reduce(torch.ones(4))
dog = watchdog.Watchdog(1.0, lambda text: watchdog.leave(run, 1, rank, 2, text))
if rank == 0:
    dist.all_reduce(torch.ones(4))
threading.Event().wait()
"""


def test_of_two_processes_the_one_that_stays_away_is_named(tmp_path: Path) -> None:
    start = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {"TORCH_FR_BUFFER_SIZE": "100", "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    ranks = [subprocess.Popen([*start, str(rank)], env=environment) for rank in range(2)]
    waiting, away = (process.wait(120) for process in ranks)
    assert away == HUNG_EXIT_CODE
    assert waiting  # the same, or that of the error with which its collective ends when the other rank is gone
    found = missing_ranks(str(tmp_path), 1, 2)
    assert found is not None
    assert (found.ranks, found.operation, found.sequence) == ((1,), "gloo:all_reduce", 4)
