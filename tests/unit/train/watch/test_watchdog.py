"""The watchdog that ends a process which hangs."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from raysft.train.watch.watchdog import HUNG_EXIT_CODE, Watchdog


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
        "dog = watchdog.Watchdog(0.2, lambda text: watchdog.leave(sys.argv[1], 3, 1, 1, text))\n"
        "stuck()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == HUNG_EXIT_CODE
    assert "in stuck" in (tmp_path / "stacks" / "attempt-0003-rank-00001.txt").read_text()


def test_storage_that_hangs_does_not_keep_a_hung_worker(tmp_path: Path) -> None:
    program = (
        "import sys, threading\n"
        "from raysft import storage\n"
        "from raysft.train.watch import watchdog\n"
        "def dead(location, data):\n    threading.Event().wait()\n"
        "storage.write_bytes, watchdog.LEAVING_S = dead, 0.2\n"
        "dog = watchdog.Watchdog(0.2, lambda text: watchdog.leave(sys.argv[1], 3, 1, 1, text))\n"
        "dead('', b'')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == HUNG_EXIT_CODE
    assert "in dead" in done.stderr, "said where a log is kept, for the run has no stacks"
