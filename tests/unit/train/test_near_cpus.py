"""Which CPUs are near a GPU, and that a process keeps to them: in processes of their own, on any machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raysft.train.near_cpus import cpus_near, stay_near

ADDRESS = "0000:3b:00.0"
KEPT = """
import os, sys, threading
from raysft.train.near_cpus import keep
go, seen = threading.Event(), []
started = threading.Thread(target=lambda: (go.wait(60), seen.append(os.sched_getaffinity(0))))
started.start()
kept = keep(frozenset(map(int, sys.argv[1].split(","))), int(sys.argv[2]))
go.set(); started.join()
later = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
later.start(); later.join()
print(sorted(kept), sorted(os.sched_getaffinity(0)), *map(sorted, seen), sep="|")
"""


@pytest.mark.parametrize(
    ("listed", "cpus"),
    [
        ("0-3,8-9\n", {0, 1, 2, 3, 8, 9}),
        ("5", {5}),
        ("0-0,2", {0, 2}),
        ("\n", set()),
        ("", set()),
        ("all", set()),
        ("0-x", set()),
    ],
)
def test_the_systems_list_of_near_cpus(tmp_path: Path, listed: str, cpus: set[int]) -> None:
    folder = tmp_path / "bus/pci/devices" / ADDRESS
    folder.mkdir(parents=True)
    (folder / "local_cpulist").write_text(listed)
    assert cpus_near(ADDRESS, tmp_path) == cpus
    assert cpus_near("0000:00:00.0", tmp_path) == set()


def test_a_worker_on_cpu_stays_where_it_is() -> None:
    before = os.sched_getaffinity(0)
    assert stay_near(torch.device("cpu"), 1) == frozenset()
    assert os.sched_getaffinity(0) == before


def test_threads_of_before_and_after_are_kept() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("a choice needs two CPUs")
    first, every = allowed[0], ",".join(map(str, allowed))
    outside = max(allowed) + 1
    assert _kept(f"{first},{outside}", 1) == [[first]] * 4
    for cpus, least in ((str(first), 2), (every, 1), (str(outside), 1)):
        assert _kept(cpus, least) == [[], allowed, allowed, allowed], (cpus, least)


def _kept(cpus: str, least: int) -> list[list[int]]:
    """CPUs that a process of its own keeps to; those of its main thread, of one started before, and of one after."""
    done = subprocess.run(
        [sys.executable, "-c", KEPT, cpus, str(least)], capture_output=True, text=True, check=True, timeout=120
    )
    return [[int(number) for number in part.strip("[]\n").split(",") if number] for part in done.stdout.split("|")]
