"""The first signal asks for a commit, the second one does what it did before."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from raysft.run.signals import stopping
from raysft.train.watch import stop_requests
from raysft.train.watch.stop_requests import Notice


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_ends(tmp_path: Path, number: signal.Signals) -> None:
    run, seen = str(tmp_path), []
    old = signal.signal(number, lambda *_: seen.append("as before"))
    try:
        with stopping(run):
            assert stop_requests.pending(run) is Notice.NONE
            signal.raise_signal(number)
            deadline = time.monotonic() + 5
            while stop_requests.pending(run) is not Notice.STOP and time.monotonic() < deadline:
                time.sleep(0.01)
            assert stop_requests.pending(run) is Notice.STOP
            assert seen == []
            signal.raise_signal(number)
            assert seen == ["as before"]
        signal.raise_signal(number)
        assert seen == ["as before"] * 2, "outside, nothing is caught"
    finally:
        signal.signal(number, old)


def test_threads_get_no_signals_and_change_none(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with stopping(str(tmp_path)):
            assert signal.getsignal(signal.SIGTERM) is before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
