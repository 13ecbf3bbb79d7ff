"""Leases: one holder at a time; a dead or silent holder is followed; nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raysft import lease as module
from raysft.lease import lease


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    inside, most, order = 0, 0, []
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal inside, most
        with lease(str(tmp_path / "l")) as ours:
            assert ours
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.05)
            order.append(number)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(order) == [0, 1, 2]
    assert most == 1
    assert list((tmp_path / "l").iterdir()) == []


def test_done_elsewhere_is_not_waited_for(tmp_path: Path) -> None:
    told = []
    done = threading.Event()
    with lease(str(tmp_path)):
        threading.Timer(0.2, done.set).start()
        with lease(str(tmp_path), done=done.is_set, waiting=told.append) as ours:
            assert not ours
    assert told == [f"process {os.getpid()} on {os.uname().nodename}"]


def test_a_process_that_died_here_is_followed_at_once(tmp_path: Path) -> None:
    program = "import os, sys\nfrom raysft.lease import lease\nwith lease(sys.argv[1]):\n    os._exit(1)\n"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    assert (tmp_path / "lease-0001.json").exists(), "it died holding the lease"
    started = time.monotonic()
    with lease(str(tmp_path)) as ours:
        assert ours
        assert time.monotonic() - started < 5
    assert list(tmp_path.iterdir()) == []


def test_a_silent_holder_of_another_machine_is_followed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TTL_S", 1.5)
    holder = {"host": "elsewhere", "boot": "x", "pid": 1, "started": "1"}
    (tmp_path / "lease-0004.json").write_text(json.dumps(holder))
    (tmp_path / "lease-0004.beat").write_text("7")
    beats = threading.Thread(target=_beat_for, args=(tmp_path / "lease-0004.beat", 2.0))
    beats.start()
    started = time.monotonic()
    with lease(str(tmp_path)) as ours:
        waited = time.monotonic() - started
        assert ours
        assert (tmp_path / "lease-0005.json").exists()
    beats.join()
    assert waited > 3, "as long as it beats, it holds"


def _beat_for(path: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    count = 8
    while time.monotonic() < end:
        path.write_text(str(count))
        count += 1
        time.sleep(0.3)


def test_who_waits_may_give_up_at_the_first_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder on another machine has to beat first: what is only written down may be dead."""
    monkeypatch.setattr(module, "TTL_S", 1.5)
    (tmp_path / "lease-0001.json").write_text(
        json.dumps({"host": "elsewhere", "boot": "x", "pid": 7, "started": "1"})
    )
    (tmp_path / "lease-0001.beat").write_text("7")

    def refuse(holder: str) -> None:
        raise RuntimeError(holder)

    beats = threading.Thread(target=_beat_for, args=(tmp_path / "lease-0001.beat", 1.0))
    beats.start()
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="process 7 on elsewhere"), lease(str(tmp_path), waiting=refuse):
        pytest.fail("two holders")
    assert time.monotonic() - started < 2
    beats.join()
    with lease(str(tmp_path), waiting=refuse) as ours:  # now it is silent
        assert ours
