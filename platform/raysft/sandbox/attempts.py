"""What code in the sandbox must not be able to do, tried. Each attempt raises OSError or MemoryError where it fails.

Played inside the barriers by the probe; the tests play them outside, where they succeed.
"""

from __future__ import annotations

import _thread
import ctypes
import mmap
import os
import resource
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from raysft.sandbox.barriers import Limits


def attempt_all(facts: Mapping[str, str], limits: Limits) -> list[list[str]]:
    """[barrier, what succeeded] of each attempt that should have failed. facts: `outside`, a file of the parent's;
    `directory`, the throw-away one; `parent`, its number."""
    held = []
    for barrier, attempt in ATTEMPTS:
        try:
            held.append([barrier, attempt(facts, limits)])
        except (OSError, MemoryError, RuntimeError, ValueError):
            continue
    return held


Attempt = Callable[[Mapping[str, str], Limits], str]
"""(facts, limits) -> what it was able to do."""


def _connect(facts: Mapping[str, str], limits: Limits) -> str:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    return "a socket to the network was made"


def _connect_locally(facts: Mapping[str, str], limits: Limits) -> str:
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close()
    return "a socket to other processes was made"


def _write(facts: Mapping[str, str], limits: Limits) -> str:
    Path(facts["outside"] + ".new").write_text("written", encoding="utf-8")
    return "a file outside the throw-away directory was written"


def _empty(facts: Mapping[str, str], limits: Limits) -> str:
    os.close(os.open(facts["outside"], os.O_RDONLY | os.O_TRUNC))
    return "a file outside the throw-away directory was emptied"


def _change_mode(facts: Mapping[str, str], limits: Limits) -> str:
    os.chmod(facts["outside"], 0o600)
    return "the mode of a file was changed"


def _link(facts: Mapping[str, str], limits: Limits) -> str:
    os.symlink(facts["outside"], os.path.join(facts["directory"], "link"))
    return "a link out of the throw-away directory was made"


def _read(facts: Mapping[str, str], limits: Limits) -> str:
    Path(facts["outside"]).read_text(encoding="utf-8")
    return "a file of the user was read"


def _read_environment(facts: Mapping[str, str], limits: Limits) -> str:
    Path("/proc", facts["parent"], "environ").read_bytes()
    return "the environment of the parent was read in /proc"


def _inherit(facts: Mapping[str, str], limits: Limits) -> str:
    handed = sorted(os.environ.keys() - set(facts["environment"].split(",")))
    if not handed:
        raise ValueError("nothing")
    return f"variables of the environment were handed over: {', '.join(handed)}"


def _fork(facts: Mapping[str, str], limits: Limits) -> str:
    if os.fork() == 0:
        os._exit(0)
    return "a process was made"


def _execute(facts: Mapping[str, str], limits: Limits) -> str:
    os.posix_spawn("/bin/true", ["true"], {})
    return "a program was started"


def _thread_on(facts: Mapping[str, str], limits: Limits) -> str:
    _thread.start_new_thread(lambda: None, ())
    return "a thread was made"


def _signal(facts: Mapping[str, str], limits: Limits) -> str:
    os.kill(int(facts["parent"]), 0)
    return "the parent could be sent a signal"


def _trace(facts: Mapping[str, str], limits: Limits) -> str:
    if ctypes.CDLL(None, use_errno=True).ptrace(0x4206, int(facts["parent"]), 0, 0):  # PTRACE_SEIZE
        raise OSError(ctypes.get_errno(), "ptrace")
    return "the parent could be traced"


def _limit_parent(facts: Mapping[str, str], limits: Limits) -> str:
    resource.prlimit(int(facts["parent"]), resource.RLIMIT_NOFILE)
    return "the limits of the parent could be reached"


def _raise_limits(facts: Mapping[str, str], limits: Limits) -> str:
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes * 2,) * 2)
    return "the limit of memory was raised"


def _allocate(facts: Mapping[str, str], limits: Limits) -> str:
    mmap.mmap(-1, limits.memory_bytes).close()
    return "more memory than the limit was taken"


def _fill(facts: Mapping[str, str], limits: Limits) -> str:
    with open(os.path.join(facts["directory"], "large"), "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, limits.file_bytes + 1)
    return "a file larger than the limit was written"


def _compute(facts: Mapping[str, str], limits: Limits) -> str:
    if resource.getrlimit(resource.RLIMIT_CPU)[1] in range(limits.cpu_s + 2):
        raise OSError("limited")
    return "the time of the processor has no limit"


ATTEMPTS: tuple[tuple[str, Attempt], ...] = (
    ("network", _connect),
    ("network", _connect_locally),
    ("files", _write),
    ("files", _empty),
    ("files", _change_mode),
    ("files", _link),
    ("secrets", _read),
    ("secrets", _read_environment),
    ("secrets", _inherit),
    ("processes", _fork),
    ("processes", _execute),
    ("processes", _thread_on),
    ("parent", _signal),
    ("parent", _trace),
    ("parent", _limit_parent),
    ("limits", _raise_limits),
    ("limits", _allocate),
    ("limits", _fill),
    ("limits", _compute),
)
"""(barrier, attempt)."""
