"""The filter of system calls, read by an interpreter of classic BPF that shares nothing with the package."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from raysft.sandbox.syscalls import AARCH64, MACHINES, X86_64, filter_program

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ALLOWED, KILLED = "allowed", "killed"
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decision(machine: str, number: int, *arguments: int, architecture: int | None = None) -> str:
    """What the kernel would do (Documentation/userspace-api/seccomp_filter.rst): an errno's name, ALLOWED, KILLED."""
    six = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<iIQ6Q", number, architecture or AUDIT[machine], 0, *six)
    program, at, register = filter_program(machine, 77), 0, 0
    while True:
        code, true, false, k = program[at]
        at += 1
        if code == 0x20:
            (register,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            register &= k
        elif code == 0x15:
            at += true if register == k else false
        elif code == 0x35:
            at += true if register >= k else false
        else:
            assert code == 0x06
            action = k & 0xFFFF0000
            if action == 0x00050000:
                return errno.errorcode[k & 0xFFFF]
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}[action]


def test_what_is_named_may_be_called() -> None:
    for machine, (_, calls) in MACHINES.items():
        for name in ("read", "write", "mmap", "futex", "exit_group", "getrandom", "unlinkat"):
            assert decision(machine, calls[name]) == ALLOWED, name


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [
        *(("socket", 41, 198), ("connect", 42, 203), ("clone", 56, 220), ("fork", 57, 1071), ("execve", 59, 221)),
        *(("ptrace", 101, 117), ("chmod", 90, 1028), ("fchmodat", 268, 53), ("symlinkat", 266, 36)),
        *(("mkdirat", 258, 34), ("truncate", 76, 45), ("setsid", 112, 157), ("prctl", 157, 167)),
        *(("io_uring_setup", 425, 425), ("openat2", 437, 437), ("bpf", 321, 280), ("unshare", 272, 97)),
        *(("process_vm_readv", 310, 270), ("pidfd_send_signal", 424, 424), ("setrlimit", 160, 164)),
        *(("memfd_create", 319, 279), ("mount", 165, 40), ("linkat", 265, 37), ("mknodat", 259, 33)),
    ],
)
def test_what_is_not_named_is_refused(name: str, x86_64: int, aarch64: int) -> None:
    assert (decision("x86_64", x86_64), decision("aarch64", aarch64)) == ("EPERM", "EPERM")


def test_clone3_is_unknown_so_that_the_c_library_asks_for_clone() -> None:
    assert {decision(machine, 435) for machine in MACHINES} == {"ENOSYS"}


def test_other_ways_into_the_kernel_end_the_process() -> None:
    assert decision("x86_64", 11, architecture=0x40000003) == KILLED  # i386
    assert decision("x86_64", 0x40000000 | 41) == KILLED  # x32


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments(machine: str) -> None:
    calls = MACHINES[machine][1]

    def may(name: str, *arguments: int) -> bool:
        return decision(machine, calls[name], *arguments) == ALLOWED

    assert may("kill", 77, 9)
    assert not any(may("kill", pid, 9) for pid in (1, 76, 78, 0, 2**64 - 1))
    for name, first, second in (
        ("tgkill", (77, 77, 6), (76, 76, 6)),
        ("prlimit64", (0, 7), (76, 7)),
        ("fcntl", (3, 1), (3, 8)),  # F_GETFD, F_SETOWN
        ("ioctl", (0, 0x5401), (0, 0x5412)),  # TCGETS, TIOCSTI
    ):
        assert (may(name, *first), may(name, *second)) == (True, False), name
    flags = {"read": 0, "write": 1, "empty": 0o1000, "write and empty": 0o1001, "make": 0o101}
    may_open = {what: may("openat", 0, 0, bits) for what, bits in flags.items()}
    assert may_open == {"read": True, "write": True, "empty": False, "write and empty": True, "make": True}


@pytest.mark.parametrize(("machine", "calls"), [("x86_64", X86_64), ("aarch64", AARCH64)])
def test_numbers_are_those_of_the_kernel(machine: str, calls: dict[str, int]) -> None:
    """Compared where Linux's headers are installed."""
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip("needs linux-libc-dev")
    text = header.read_text(encoding="utf-8")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", text))
    found.setdefault("newfstatat", found.get("fstatat", ""))
    assert {name: int(found[name]) for name in calls} == calls
