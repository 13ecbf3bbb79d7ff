"""Requests from outside, steps left out, and the watchdog that ends a process."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from raysft.train.history.skips import Skip, add_skip, read_skips
from raysft.train.watch import stop_requests
from raysft.train.watch.stop_requests import Notice, NoticeBoard
from raysft.train.watch.watchdog import HUNG_EXIT_CODE, Watchdog


def test_the_most_urgent_request_counts(tmp_path: Path) -> None:
    run = str(tmp_path)
    assert stop_requests.pending(run) is Notice.NONE
    stop_requests.request(run, Notice.STOP)
    stop_requests.request(run, Notice.RESIZE)
    assert stop_requests.pending(run) is Notice.STOP
    stop_requests.clear(run)
    assert stop_requests.pending(run) is Notice.NONE


def test_the_board_sees_a_request_and_keeps_it(tmp_path: Path) -> None:
    run = str(tmp_path)
    with closing(NoticeBoard(run, poll_s=0.02)) as board:
        assert board.current() == 0
        stop_requests.request(run, Notice.PREEMPTED)
        deadline = time.monotonic() + 5
        while not board.current() and time.monotonic() < deadline:
            time.sleep(0.01)
        stop_requests.clear(run)
        time.sleep(0.06)
        assert board.current() == Notice.PREEMPTED


def test_steps_left_out_are_read_in_order(tmp_path: Path) -> None:
    for step in (12, 3):
        add_skip(str(tmp_path), Skip(step, f"loss of {step}"))
    add_skip(str(tmp_path), Skip(3, "again"))
    assert read_skips(str(tmp_path)) == [Skip(3, "again"), Skip(12, "loss of 12")]


def test_the_watchdog_barks_once_and_only_without_beats() -> None:
    told: list[str] = []
    with closing(Watchdog(0.3, told.append)) as dog:
        for _ in range(10):
            time.sleep(0.06)
            dog.beat()
        assert told == []
        time.sleep(0.8)
    assert len(told) == 1
    assert "test_the_watchdog_barks_once" in told[0], "where this thread stood"


def test_a_hung_worker_leaves_its_stacks_and_its_own_exit_code(tmp_path: Path) -> None:
    program = (
        "import sys, threading\n"
        "from raysft.train.watch import watchdog\n"
        "def stuck():\n    threading.Lock().acquire() and threading.Event().wait()\n"
        "dog = watchdog.Watchdog(0.2, lambda text: watchdog.leave(sys.argv[1], 3, 1, text))\n"
        "stuck()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == HUNG_EXIT_CODE
    assert "in stuck" in (tmp_path / "stacks" / "attempt-0003-rank-00001.txt").read_text()
