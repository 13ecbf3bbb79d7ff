"""The barriers that a process raises around itself and cannot take down: capabilities, limits, landlock, seccomp.

None needs a privilege, a user namespace or a package: they hold in a plain container, too. Linux, x86-64 and ARM.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

from raysft.sandbox.syscalls import MACHINES, filter_program

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CAPSET = {"x86_64": 126, "aarch64": 91}
_SET_DEATH_SIGNAL, _SET_SECCOMP, _NO_NEW_PRIVILEGES = 1, 22, 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_FILE = 1, 2, 4, 8, 32, 256
_ALL_OF_VERSION_1 = (1 << 13) - 1
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_FILE

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom")


@dataclass(frozen=True)
class Limits:
    """What a process may use."""

    cpu_s: int = 10
    """Seconds of a CPU; wall_s bounds how long it may sleep besides."""
    memory_bytes: int = 1 << 30
    """Address space."""
    file_bytes: int = 16 << 20
    """Largest file, and largest message between the processes."""
    directory_bytes: int = 64 << 20
    """All files of the throw-away directory; so many may be overshot as are written in 20 ms."""
    files: int = 256
    """Files of the throw-away directory."""
    descriptors: int = 64

    @property
    def wall_s(self) -> float:
        """Seconds after which a process is killed, whatever it does: three times cpu_s, so that a busy machine is
        no reason."""
        return 3.0 * self.cpu_s


class BarrierError(Exception):
    """A barrier cannot be raised here."""

    def __init__(self, barrier: str, problem: str) -> None:
        super().__init__(barrier, problem)
        self.barrier, self.problem = barrier, problem


def raise_barriers(directory: str, limits: Limits, readable: tuple[str, ...], parent: int) -> None:
    """Around this process, for good. It ends with its parent. directory: the only one it may write in. readable:
    files and directories it may read besides libraries. Raises BarrierError."""
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in MACHINES:
        raise BarrierError("machine", f"{platform.system()} on {machine}; Linux on {' or '.join(MACHINES)} is known")
    libc = ctypes.CDLL(None, use_errno=True)
    _called(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    _limit(limits)
    _landlock(libc, directory, readable)
    _drop_capabilities(libc, machine)
    _called(libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "end with the parent")
    if os.getppid() != parent:
        raise BarrierError("end with the parent", "the parent has ended already")
    _filter(libc, machine)


def _limit(limits: Limits) -> None:
    wanted = {
        resource.RLIMIT_CPU: (limits.cpu_s, limits.cpu_s + 1),
        resource.RLIMIT_AS: (limits.memory_bytes,) * 2,
        resource.RLIMIT_FSIZE: (limits.file_bytes,) * 2,
        resource.RLIMIT_NOFILE: (limits.descriptors,) * 2,
        resource.RLIMIT_NPROC: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_STACK: (8 << 20, 8 << 20),
    }
    for which, (soft, hard) in wanted.items():
        most = resource.getrlimit(which)[1]
        kept = hard if most == resource.RLIM_INFINITY else min(hard, most)
        try:
            resource.setrlimit(which, (min(soft, kept), kept))
        except (OSError, ValueError) as error:
            raise BarrierError("limits", str(error)) from None


def _landlock(libc: ctypes.CDLL, directory: str, readable: tuple[str, ...]) -> None:
    """Reading, writing, executing and making of files: refused everywhere but where a rule says otherwise."""
    handled = ctypes.c_uint64(_ALL_OF_VERSION_1)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    _called(ruleset, "landlock")
    rules = dict.fromkeys((*_LIBRARIES, *readable), _READ | _EXECUTE)
    rules |= dict.fromkeys(_FILES, _READ_FILE) | {"/dev/null": _READ_FILE | _WRITE_FILE, directory: _WRITE}
    for path, access in rules.items():
        if not os.path.exists(path):
            continue
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        only_files = access if os.path.isdir(path) else access & (_READ_FILE | _WRITE_FILE | _EXECUTE)
        rule = only_files.to_bytes(8, "little") + opened.to_bytes(4, "little")
        _called(libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), "landlock")
        os.close(opened)
    _called(libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def _drop_capabilities(libc: ctypes.CDLL, machine: str) -> None:
    """Root without capabilities is a user like others; its limits cannot be raised again."""
    header = (0x20080522).to_bytes(4, "little") + bytes(4)
    _called(libc.syscall(_CAPSET[machine], header, bytes(24)), "capabilities")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _filter(libc: ctypes.CDLL, machine: str) -> None:
    code = filter_program(machine, os.getpid())
    packed = b"".join(
        op.to_bytes(2, "little") + bytes((true, false)) + k.to_bytes(4, "little") for op, true, false, k in code
    )
    program = _Program(len(code), packed)
    _called(libc.prctl(_SET_SECCOMP, 2, ctypes.byref(program), 0, 0), "seccomp")


def _called(result: int, barrier: str) -> None:
    if result < 0:
        raise BarrierError(barrier, os.strerror(ctypes.get_errno()))


def readable_of(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """What Python itself lies in, without `/` and home directories, which hold what nobody may read."""
    forbidden = {Path("/"), Path.home(), Path("/home"), Path("/root")}
    return tuple(dict.fromkeys(one for one in prefixes if Path(one).resolve() not in forbidden))
