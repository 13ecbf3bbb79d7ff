"""A word before the end when Ray dies under a driver: Ray itself ends the process, with exit code 1 and no line.

The head of a cluster may be away for AWAY_S; of a Ray on this machine the processes are looked at.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

from raysft.errors import ClusterError, PlatformError, RaysftError

LOOK_S = 0.5
AWAY_S = 30.0
"""Half of what Ray waits for its head before it ends the process."""


@contextlib.contextmanager
def watching(local: bool) -> Iterator[None]:
    """Inside, a Ray that dies ends this process with an `error:` line and its code. local: it was started here."""
    over = threading.Event()
    look = _processes_of(ray._private.worker._global_node) if local else _head_of(gcs_address())
    thread = threading.Thread(target=_watch, args=(look, over), name="ray", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2 * LOOK_S)


def _watch(look: Callable[[], RaysftError | None], over: threading.Event) -> None:
    while not over.wait(LOOK_S):
        error = look()
        if error is not None and not over.wait(LOOK_S):
            _end(error)


def _end(error: RaysftError) -> None:
    """Say it and go: threads of Ray's own wait for what will not come."""
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()
    node: Any = ray._private.worker._global_node
    if node is not None:
        with contextlib.suppress(Exception):  # boundary: whatever is left of it
            node.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(error.exit_code)


def _processes_of(node: Any) -> Callable[[], RaysftError | None]:
    """The two without which nothing goes on: raylet and gcs_server."""

    def look() -> RaysftError | None:
        for kind in ("gcs_server", "raylet"):
            for started in node.all_processes.get(kind, []):
                code = started.process.poll()
                if code is not None:
                    return PlatformError(
                        "the Ray that this command had started on this machine has died",
                        got=f"its {kind} ended with code {code}",
                        expected="a process that lives as long as the command",
                        fix=f"see {node.get_session_dir_path()}/logs (memory? disk?); the same command goes on from "
                        "the last commit",
                    )
        return None

    return look


def gcs_address() -> str:
    """host:port of the cluster's head; empty where the driver is outside of the cluster (`ray://`)."""
    try:
        return str(ray.get_runtime_context().gcs_address)
    except Exception:  # boundary: Ray's client has none
        return ""


def _head_of(address: str) -> Callable[[], RaysftError | None]:
    host, _, port = address.rpartition(":")
    seen = [time.monotonic()]

    def look() -> RaysftError | None:
        if not port.isdecimal():
            return None
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            seen[0] = time.monotonic()
        away_s = time.monotonic() - seen[0]
        if away_s < AWAY_S:
            return None
        return ClusterError(
            "the head of the Ray cluster is gone",
            got=f"no answer from {address} for {away_s:.0f} s",
            expected="a head node that lives as long as the run",
            fix="start the cluster again; the same command goes on from the last commit",
        )

    return look
