"""How Ray starts a worker that is made by fork(): this file is the command, and needs the standard library only.

It hands the worker's arguments, variables, directory and standard streams to the fork server of its kind
(fork_server.py) and ends when the worker does. Where there is none it starts one. Whenever anything is in doubt it
becomes an ordinary worker itself.

A server's kind is its user, its Python, the code as it is on disk and every variable, the raylet's process id and the
job among them: Ray reads both at import, and a worker with another's ends with that raylet or never registers. Its
socket has a name in Linux's abstract space: no file is left, and each side asks the kernel whether the other is the
same user.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shlex
import socket
import struct
import sys

MODULES = (
    "ray._private.workers.default_worker",
    "ray.train.v2.torch.torch_trainer",
    "raysft.train.worker",
    "raysft.runtime.teardown",
    "raysft.run.remote_tasks",
    "raysft.search.tune_driver",
)
"""What a server has imported."""

ANSWER_TIMEOUT_S = 30.0
"""Ray waits 60 s for a worker."""
LENGTH = struct.Struct("!Q")
"""Length of a request in bytes, sent before it."""
STARTED = b"s"
"""Answer of the server when the worker is there; the next is its exit code."""

_PEER = struct.Struct("3i")


def command() -> str:
    """`py_executable` of a Ray runtime environment. On a node without this file it is `python`."""
    python, here = shlex.quote(sys.executable), shlex.quote(os.path.abspath(__file__))
    script = f'test -x {python} -a -e "$0" && exec {python} -I -S "$0" "$@"; shift; exec python "$@"'
    return f"bash -c {shlex.quote(script)} {here} {','.join(MODULES)}"


def launch(modules: str, worker: list[str]) -> int:
    """Be the worker, or wait for the one that the server makes: its exit code."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_TIMEOUT_S)
    try:
        _connect(connection, modules)
        _send(connection, worker)
        started = connection.recv(1) == STARTED
    except OSError:
        started = False
    if not started:
        os.execv(sys.executable, [sys.executable, *worker])
    connection.settimeout(None)
    code = connection.recv(1)
    return code[0] if code else 1


def _address(modules: str) -> str:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    newest = max(
        os.stat(os.path.join(folder, name)).st_mtime_ns
        for folder, _, names in os.walk(package)
        for name in names
        if name.endswith(".py")
    )
    kind = json.dumps([os.getuid(), sys.executable, package, newest, modules, dict(os.environ)], sort_keys=True)
    return f"\0raysft-fork-{hashlib.sha256(kind.encode()).hexdigest()}"


def _connect(connection: socket.socket, modules: str) -> None:
    """To the server of this kind; one that was just started answers when it has imported all."""
    address = _address(modules)
    try:
        connection.connect(address)
    except ConnectionRefusedError:
        _start_server(address, modules)
        connection.connect(address)
    check_user(connection)


def check_user(connection: socket.socket) -> None:
    """Raises PermissionError for another user's process."""
    _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if user != os.getuid():
        raise PermissionError(f"a process of user {user}")


def _start_server(address: str, modules: str) -> None:
    """A process that this one is not the parent of: Ray ends a worker's children with it."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(address)
        except OSError:
            return  # somebody was faster
        listener.listen(128)
        raylet, child = os.getppid(), os.fork()
        if child:
            os.waitpid(child, 0)
            return
        try:
            os.setsid()
            if os.fork() == 0:
                _exec_server(listener, raylet, modules)
        finally:
            os._exit(0)


def _exec_server(listener: socket.socket, raylet: int, modules: str) -> None:
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # whoever waits for the end of a worker's must not wait for the server's
        os.dup2(quiet, stream)
    listener.set_inheritable(True)
    server = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fork_server.py")
    os.execv(sys.executable, [sys.executable, server, str(listener.fileno()), str(raylet), modules])


def _send(connection: socket.socket, worker: list[str]) -> None:
    with open("/proc/self/oom_score_adj") as file:
        adjusted = file.read()
    body = json.dumps({"argv": worker, "cwd": os.getcwd(), "env": dict(os.environ), "oom": adjusted}).encode()
    socket.send_fds(connection, [LENGTH.pack(len(body))], [0, 1, 2])
    connection.sendall(body)


def refuse(descriptor: int, raylet: int) -> None:
    """In place of a server that cannot be: workers are told at once, and nobody tries it again for this raylet."""
    listener = socket.socket(fileno=descriptor)
    poll, end = select.poll(), os.pidfd_open(raylet)
    poll.register(listener, select.POLLIN)
    poll.register(end, select.POLLIN)
    while end not in dict(poll.poll()):
        listener.accept()[0].close()


if __name__ == "__main__":
    if sys.argv[1] == "--refuse":
        refuse(int(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(launch(sys.argv[1], sys.argv[2:]))
