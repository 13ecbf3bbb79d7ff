"""One process on each node that has imported what workers need and becomes one by fork(): 0.1 s of CPU and not 5.

fork_client.py starts it and asks it for workers. It serves one job of one raylet, and ends with that raylet or when
it had no worker for IDLE_S.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import runpy
import select
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from raysft.runtime import fork_client
from raysft.runtime.fork_client import LENGTH, STARTED, check_user

IDLE_S = 120
REQUEST_TIMEOUT_S = 5.0
MOST_BYTES = 2**24
"""Longest request; the kernel allows a program 2 MiB of arguments and variables."""

_SAFE_THREADS = frozenset({"jemalloc_bg_thd"})
"""Threads of libraries that know how to be forked: jemalloc's stops before a fork and starts again after."""


@dataclass
class _Request:
    """What a worker is to be."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    oom: str
    streams: list[int] = field(default_factory=list)


@dataclass
class _Server:
    """raylet: descriptor of its process. workers: those it made, each under a descriptor of its process."""

    listener: socket.socket
    raylet: int
    workers: dict[int, tuple[int, socket.socket]] = field(default_factory=dict)

    def serve(self) -> _Request | None:
        """In a new worker: what it is to be. In the server: None, when it is no longer needed."""
        while True:
            ready = self._wait()
            if self.raylet in ready or not (ready or self.workers):
                return None
            for descriptor in ready:
                if descriptor == self.listener.fileno():
                    request = self._accept()
                    if request is not None:
                        return request
                elif descriptor in self.workers:
                    self._ended(descriptor)
                else:
                    self._abandoned(descriptor)

    def _wait(self) -> list[int]:
        """Descriptors that have something to tell; none after IDLE_S."""
        poll = select.poll()
        asking = [connection.fileno() for _, connection in self.workers.values()]
        for descriptor in (self.listener.fileno(), self.raylet, *self.workers, *asking):
            poll.register(descriptor, select.POLLIN)
        return [descriptor for descriptor, _ in poll.poll(IDLE_S * 1000)]

    def _accept(self) -> _Request | None:
        """A worker for whoever asks; in it, the request."""
        connection, _ = self.listener.accept()
        streams: list[int] = []
        try:
            check_user(connection)
            request = _receive(connection, streams)
        except (OSError, ValueError, TypeError, struct.error):  # whoever asked is gone, or is another user
            connection.close()
        else:
            pid = os.fork()
            if pid == 0:
                self._forget(connection)
                return request
            self.workers[os.pidfd_open(pid)] = (pid, connection)
            with suppress(OSError):
                connection.sendall(STARTED)
        for stream in streams:
            os.close(stream)
        return None

    def _ended(self, descriptor: int) -> None:
        pid, connection = self.workers.pop(descriptor)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        with suppress(OSError):  # nobody may wait for it
            connection.sendall(bytes([code if code >= 0 else 128 - code]))
        connection.close()
        os.close(descriptor)

    def _abandoned(self, descriptor: int) -> None:
        """Ray killed the process that it had started: the worker that stands for it ends too."""
        for worker, (pid, connection) in self.workers.items():
            if connection.fileno() == descriptor:
                os.kill(pid, 9)
                self._ended(worker)
                return

    def _forget(self, connection: socket.socket) -> None:
        """In a worker: nothing of the server."""
        self.listener.close()
        connection.close()
        os.close(self.raylet)
        for descriptor, (_, other) in self.workers.items():
            os.close(descriptor)
            other.close()


def _receive(connection: socket.socket, streams: list[int]) -> _Request:
    """streams: gets the descriptors that came with it, whatever else is wrong with it."""
    connection.settimeout(REQUEST_TIMEOUT_S)
    header, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
    streams.extend(descriptors)
    (size,) = LENGTH.unpack(header)
    if size > MOST_BYTES:
        raise ValueError(f"a request of {size} bytes")
    body = bytearray()
    while len(body) < size:
        part = connection.recv(size - len(body))
        if not part:
            raise ConnectionError("cut short")
        body += part
    connection.settimeout(None)
    return _Request(**json.loads(body), streams=streams)


def _become(request: _Request) -> None:
    """Run the worker's program in this process."""
    os.setpgid(0, 0)
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(request.oom)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    sys.argv = request.argv
    sys.path.insert(0, os.path.dirname(request.argv[0]))
    runpy.run_path(request.argv[0], run_name="__main__")


def _import_all(modules: str) -> bool:
    """Whether a fork of this process is a whole worker."""
    try:
        with _unseeded(), _without_driver():
            for name in modules.split(","):
                importlib.import_module(name)
    except Exception:  # process boundary: workers start without this, and say what is wrong
        return False
    gc.collect()
    gc.freeze()
    return _may_fork()


@contextmanager
def _unseeded() -> Iterator[None]:
    """Ray's random ids of actor classes from the kernel: its own generator, once seeded, is copied by a fork."""
    actors: Any = importlib.import_module("ray.actor")
    kind = actors.ActorClassID
    size = len(kind.nil().binary())
    actors.ActorClassID = SimpleNamespace(from_random=lambda: kind(os.urandom(size)))
    try:
        yield
    finally:
        actors.ActorClassID = kind


@contextmanager
def _without_driver() -> Iterator[None]:
    """DeepSpeed asks the GPU for its kind as it is imported (its module fp8_gemm), which starts the driver
    in this process: no fork could use it. The answer only chooses kernels that are not used here."""
    cuda: Any = importlib.import_module("torch.cuda")
    asked = cuda.get_device_capability
    cuda.get_device_capability = lambda *_: (0, 0)
    try:
        yield
    finally:
        cuda.get_device_capability = asked


def _may_fork() -> bool:
    """No random ids that workers would share, no CUDA that a fork would break, no thread that it would lose.

    Threads are counted after a fork: OpenBLAS ends its own before each, and starts them again when it needs them.
    """
    if _drawn_in_a_fork() == _drawn_in_a_fork():
        return False
    names = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/comm") as file:
            names.append(file.read().strip())
    with open("/proc/self/maps") as file:
        has_cuda = "libcuda.so" in file.read()
    return len([name for name in names if name not in _SAFE_THREADS]) == 1 and not has_cuda


def _drawn_in_a_fork() -> bytes:
    """A random id of Ray as a worker would draw it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, importlib.import_module("ray").ObjectID.from_random().binary())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as drawn:
        return drawn.read()


def serve(descriptor: int, raylet: int, modules: str) -> None:
    """The server's whole life; returns in it, or at the end of a worker."""
    sys.path.pop(0)  # this file's folder
    listener = socket.socket(fileno=descriptor)
    server = _Server(listener, os.pidfd_open(raylet))
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # else to ask for GPUs would start CUDA
    if not _import_all(modules):
        arguments = [os.path.abspath(fork_client.__file__), "--refuse", str(descriptor), str(raylet)]
        os.execv(sys.executable, [sys.executable, "-I", "-S", *arguments])
    listener.set_inheritable(False)
    request = server.serve()
    if request is not None:
        _become(request)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
