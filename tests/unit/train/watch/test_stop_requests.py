"""Requests from outside, steps left out, and the watchdog that ends a process."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from raysft.train.watch import stop_requests
from raysft.train.watch.stop_requests import Notice, NoticeBoard


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
