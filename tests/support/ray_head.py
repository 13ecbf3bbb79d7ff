"""A head node with a token, in its own process group, and a way to it that can be cut."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A head node that runs."""

    address: str
    """Of its job server."""
    token: str


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(token: str) -> dict[str, str]:
    """Of a node, and of a client that Ray's own command is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "1"  # at the end nobody waits for it
    ours = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "HF_HUB_OFFLINE": "1"}
    return kept | ours | {"PATH": f"{BIN}:{os.environ['PATH']}"}


@contextmanager
def ray_head(metrics_port: int = 0, **variables: str) -> Iterator[Head]:
    """As long as the block lasts. variables: of the node's environment, over those that it has anyway.

    metrics_port: where Prometheus finds the node's metrics; 0: anywhere.
    """
    token = secrets.token_hex(32)
    port, dashboard, agent = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray-head-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=2"]
        command += [f"--port={port}", f"--temp-dir={scratch}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
        command += [f"--metrics-export-port={metrics_port}"] if metrics_port else []
        command += [f"--dashboard-agent-listen-port={agent}"]  # its fixed default clashes with other clusters here
        with open(Path(scratch) / "head.log", "w") as log:
            head = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment(token) | variables, start_new_session=True
            )
            try:
                address = f"http://127.0.0.1:{dashboard}"
                wait_for(f"{address}/api/version")
                yield Head(address, token)
            finally:
                os.killpg(head.pid, signal.SIGTERM)
                try:
                    head.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    os.killpg(head.pid, signal.SIGKILL)
                    head.wait(timeout=20)


def wait_for(url: str) -> None:
    """Until something answers there."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except urllib.error.HTTPError:
            return  # it answers: 401, since Ray asks for its token
        except OSError:
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.3)


class Way:
    """A port here that leads to a server, and can be cut: every connection ends, and none is taken until `mend`."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self._to, self._is_cut = (host, int(port)), False
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Returns how many connections there were."""
        self._is_cut, ended = True, self._open
        self._open = []
        for one in ended:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        return len(ended) // 2

    def mend(self) -> None:
        """It leads there again."""
        self._is_cut = False

    def _accept(self) -> None:
        while True:
            here, _ = self._listener.accept()
            if self._is_cut:
                here.close()
                continue
            there = socket.create_connection(self._to)
            self._open += [here, there]
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(1 << 16):
                other.sendall(piece)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
        self._open = [each for each in self._open if each not in (one, other)]
