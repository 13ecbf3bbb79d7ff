"""`raysft` whose workers obey switches, for k8s_demo.py: files in the folder $SWITCHES, which all nodes see.

slow            every step takes STEP_S longer, as that of a larger model: the run is not over before its last fault
broken-HOST     every step on this node raises what CUDA says of an uncorrectable ECC error
held-HOST       a commit record of this node waits until the file is gone; `waiting-HOST` says that one does
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raysft.cli import main
from raysft.run import attempts
from raysft.train.commits import writer
from raysft.train.history.records import Records
from raysft.train.worker import train_worker

STEP_S = 0.4


def spoilt_worker(folder: str, wire: dict[str, Any]) -> dict[str, Any]:
    """Train, and look at the switches in each step and before each commit record."""
    switches, host = Path(folder), socket.gethostname()
    record, commit = Records.step, writer.commit_record

    def spoilt_step(*words: Any, **named: Any) -> Any:
        if (switches / f"broken-{host}").exists():
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        if (switches / "slow").exists():
            time.sleep(STEP_S)
        return record(*words, **named)

    def held_commit(*words: Any, **named: Any) -> Any:
        while (switches / f"held-{host}").exists():
            (switches / f"waiting-{host}").touch()
            time.sleep(0.05)
        return commit(*words, **named)

    Records.step, writer.commit_record = spoilt_step, held_commit
    return train_worker(wire)


def worker_of(folder: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A worker whose switches are in this folder, whatever the variables of its node."""
    return lambda wire: spoilt_worker(folder, wire)


if __name__ == "__main__":
    attempts.train_worker = worker_of(os.environ["SWITCHES"])
    sys.exit(main(sys.argv[1:]))
