"""Workers made by fork(): they are what Ray asked for, end as Ray expects, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raysft.runtime import fork_client, fork_server

RAYLET = """
import json, subprocess, sys
made = {}
for line in sys.stdin:
    asked = json.loads(line)
    if "start" in asked:
        process = subprocess.Popen(
            asked["start"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=asked["cwd"], env=asked["env"],
        )
        made[process.pid] = process
        print(process.pid, flush=True)
    else:
        process = made.pop(asked["pid"])
        out, err = process.communicate(timeout=60)
        print(json.dumps([process.returncode, out, err]), flush=True)
"""

WORKER = """
import json, os, sys, time
preloaded = "tabnanny" in sys.modules
import ray
facts = {
    "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "argv": sys.argv, "cwd": os.getcwd(),
    "env": {name: os.environ.get(name) for name in ("COLOUR", "RAY_JOB_ID", "PYTORCH_NVML_BASED_CUDA_CHECK")},
    "preloaded": preloaded, "folder": sys.path[0], "drawn": ray.ObjectID.from_random().hex(),
    "descriptors": sorted(os.readlink(f"/proc/self/fd/{name}")[:7] for name in os.listdir("/proc/self/fd")
                          if os.path.exists(f"/proc/self/fd/{name}") and int(name) > 2),
}
with open(sys.argv[2], "w") as file:
    json.dump(facts, file)
os.rename(sys.argv[2], sys.argv[2] + ".json")
print("hello", flush=True)
print("alas", file=sys.stderr, flush=True)
time.sleep(float(sys.argv[3]))
sys.exit(int(sys.argv[1]))
"""


class Raylet:
    """A process that starts workers as Ray's does."""

    def __init__(self, folder: Path, modules: str = "tabnanny,ray.data._internal.memory_tracing") -> None:
        self.folder, self.modules, self.count = folder, modules, 0
        self.script = folder / "worker.py"
        self.script.write_text(WORKER)
        self.process = subprocess.Popen(
            [sys.executable, "-c", RAYLET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, **what: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, code: int = 0, seconds: float = 0.0, **env: str) -> tuple[int, Path]:
        """(process id of what was started, where its facts will be)."""
        self.count += 1
        facts = self.folder / f"facts-{self.count}"
        command = [sys.executable, "-I", "-S", fork_client.__file__, self.modules]
        command += [str(self.script), str(code), str(facts), str(seconds)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "RAY_JOB_ID": "1", **env}
        return self._ask(start=command, cwd=str(self.folder), env=environment), facts.with_name(facts.name + ".json")

    def wait(self, pid: int) -> Any:
        """(exit code, stdout, stderr) of what was started."""
        return self._ask(pid=pid)

    def run(self, code: int = 0, **env: str) -> tuple[Any, dict[str, Any]]:
        """How a worker ended, and its facts."""
        pid, facts = self.start(code, **env)
        return self.wait(pid), json.loads(facts.read_text())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def raylet(tmp_path: Path) -> Iterator[Raylet]:
    raylet = Raylet(tmp_path)
    yield raylet
    raylet.end()


def until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_is_what_was_asked_for(raylet: Raylet) -> None:
    ended, first = raylet.run(COLOUR="red")
    assert ended == [0, "hello\n", "alas\n"]
    assert first["preloaded"]
    assert first["group"] == first["pid"]
    assert first["cwd"] == first["folder"] == str(raylet.folder)
    assert first["argv"][0] == str(raylet.script)
    assert first["argv"][1] == "0"
    assert first["env"] == {"COLOUR": "red", "RAY_JOB_ID": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": None}
    assert not any(name.startswith("socket") for name in first["descriptors"])
    ended, second = raylet.run(code=3, COLOUR="red")
    assert ended[0] == 3
    assert second["parent"] == first["parent"]  # one server made both
    assert second["drawn"] != first["drawn"]
    _, other = raylet.run(COLOUR="blue")  # libraries may have read it when they were imported
    assert other["parent"] != first["parent"]
    assert other["env"]["COLOUR"] == "blue"
    servers = {first["parent"], other["parent"]}
    assert all(is_alive(pid) for pid in servers)
    raylet.end()
    until(lambda: not any(is_alive(pid) for pid in servers))


def test_worker_and_launcher_end_together(raylet: Raylet) -> None:
    killed, facts = raylet.start(seconds=60)
    until(facts.exists)
    worker = json.loads(facts.read_text())
    os.kill(killed, signal.SIGKILL)  # as Ray does with a worker that did not register
    until(lambda: not is_alive(worker["pid"]))
    started, facts = raylet.start(seconds=60)
    until(facts.exists)
    again = json.loads(facts.read_text())
    assert again["parent"] == worker["parent"]
    os.kill(again["pid"], signal.SIGKILL)
    assert raylet.wait(started)[0] == 128 + signal.SIGKILL
    assert is_alive(worker["parent"])


def test_where_no_server_can_be_workers_are_ordinary(tmp_path: Path) -> None:
    raylet = Raylet(tmp_path, modules="tabnanny,no_such_module")
    try:
        for code in (0, 4):
            ended, facts = raylet.run(code)
            assert ended[0] == code
            assert not facts["preloaded"]
            assert facts["parent"] == raylet.process.pid
    finally:
        raylet.end()


def test_a_process_that_cannot_be_forked_whole_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: this one has threads."""
    program = (
        "import threading, time; from raysft.runtime import fork_server as f; import ray;"
        "print(f._may_fork()); ray.ObjectID.from_random(); print(f._may_fork());"
        "threading.Thread(target=time.sleep, args=(20,), daemon=True).start(); print(f._may_fork())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


def test_it_ends_when_nobody_needs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fork_server, "IDLE_S", 0.2)
    with fork_server.socket.socket(fork_server.socket.AF_UNIX) as listener:
        listener.bind(f"\0raysft-test-{os.getpid()}")
        listener.listen()
        server = fork_server._Server(listener, os.pidfd_open(os.getpid()))
        ends: list[Any] = []
        thread = threading.Thread(target=lambda: ends.append(server.serve()))
        thread.start()
        with fork_server.socket.socket(fork_server.socket.AF_UNIX) as stranger:
            stranger.connect(listener.getsockname())
            stranger.sendall(b"GET / HT")  # as a length: more than there ever is
            assert stranger.recv(1) == b""  # refused, and the server lives
        thread.join(10)
        assert ends == [None]
        os.close(server.raylet)
