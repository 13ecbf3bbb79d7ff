"""The system calls that code in the sandbox may make, as seccomp filters them. Pure; everything else is refused.

Nothing here makes a process, a thread, a socket, a link or a directory, changes a mode, an owner or a limit, or looks
into another process.
"""

from __future__ import annotations

from dataclasses import dataclass

X86_64: dict[str, int] = {
    **{"read": 0, "write": 1, "close": 3, "fstat": 5, "newfstatat": 262, "statx": 332, "lseek": 8},
    **{"mmap": 9, "mprotect": 10, "munmap": 11, "mremap": 25, "madvise": 28, "brk": 12, "mincore": 27},
    **{"rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "rt_sigpending": 127, "rt_sigtimedwait": 128},
    **{"sigaltstack": 131, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "faccessat": 269},
    **{"faccessat2": 439, "dup": 32, "dup3": 292, "nanosleep": 35, "clock_nanosleep": 230, "getitimer": 36},
    **{"setitimer": 38, "getpid": 39, "getppid": 110, "gettid": 186, "exit": 60, "exit_group": 231, "fcntl": 72},
    **{"ioctl": 16, "ftruncate": 77, "getdents64": 217, "getcwd": 79, "chdir": 80, "unlinkat": 263, "renameat": 264},
    **{"renameat2": 316, "openat": 257, "readlinkat": 267, "gettimeofday": 96, "clock_gettime": 228},
    **{"clock_getres": 229, "getrandom": 318, "uname": 63, "getuid": 102, "geteuid": 107, "getgid": 104},
    **{"getegid": 108, "getgroups": 115, "prlimit64": 302, "getrlimit": 97, "getrusage": 98, "times": 100},
    **{"sysinfo": 99, "sched_yield": 24, "sched_getaffinity": 204, "getcpu": 309, "futex": 202},
    **{"set_robust_list": 273, "rseq": 334, "set_tid_address": 218, "ppoll": 271, "pselect6": 270, "pipe2": 293},
    **{"kill": 62, "tgkill": 234, "restart_syscall": 219, "umask": 95, "fadvise64": 221},
    **{"open": 2, "stat": 4, "lstat": 6, "access": 21, "dup2": 33, "pipe": 22, "poll": 7, "select": 23},
    **{"unlink": 87, "rename": 82, "readlink": 89, "time": 201, "alarm": 37, "arch_prctl": 158, "pause": 34},
}
"""{system call: its number} on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl of Linux)."""

AARCH64: dict[str, int] = {
    **{"read": 63, "write": 64, "close": 57, "fstat": 80, "newfstatat": 79, "statx": 291, "lseek": 62},
    **{"mmap": 222, "mprotect": 226, "munmap": 215, "mremap": 216, "madvise": 233, "brk": 214, "mincore": 232},
    **{"rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "rt_sigpending": 136, "rt_sigtimedwait": 137},
    **{"sigaltstack": 132, "pread64": 67, "pwrite64": 68, "readv": 65, "writev": 66, "faccessat": 48},
    **{"faccessat2": 439, "dup": 23, "dup3": 24, "nanosleep": 101, "clock_nanosleep": 115, "getitimer": 102},
    **{"setitimer": 103, "getpid": 172, "getppid": 173, "gettid": 178, "exit": 93, "exit_group": 94, "fcntl": 25},
    **{"ioctl": 29, "ftruncate": 46, "getdents64": 61, "getcwd": 17, "chdir": 49, "unlinkat": 35, "renameat": 38},
    **{"renameat2": 276, "openat": 56, "readlinkat": 78, "gettimeofday": 169, "clock_gettime": 113},
    **{"clock_getres": 114, "getrandom": 278, "uname": 160, "getuid": 174, "geteuid": 175, "getgid": 176},
    **{"getegid": 177, "getgroups": 158, "prlimit64": 261, "getrlimit": 163, "getrusage": 165, "times": 153},
    **{"sysinfo": 179, "sched_yield": 124, "sched_getaffinity": 123, "getcpu": 168, "futex": 98},
    **{"set_robust_list": 99, "rseq": 293, "set_tid_address": 96, "ppoll": 73, "pselect6": 72, "pipe2": 59},
    **{"kill": 129, "tgkill": 131, "restart_syscall": 128, "umask": 166, "fadvise64": 223},
}
"""The same on 64-bit ARM (include/uapi/asm-generic/unistd.h of Linux), which has no more."""

MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, X86_64),
    "aarch64": (0xC00000B7, AARCH64),
}
"""{machine: (its AUDIT_ARCH, its calls)}."""

CLONE3 = 435
"""Answered with ENOSYS: the C library then asks for clone(), which is refused with EPERM."""

_FCNTL = (0, 1, 2, 3, 4, 1030)
"""Copies of descriptors and their flags. Not F_SETOWN, which sends signals."""
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX: what Python asks of descriptors."""
_ACCESS_MODE, _TRUNCATE = 0o3, 0o1000


@dataclass(frozen=True)
class ArgumentRule:
    """A call may be made where (argument & mask) is one of some values, or, negated, is none of them. Low 32 bits."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    is_negated: bool = False


def argument_rules(pid: int) -> dict[str, tuple[ArgumentRule, ...]]:
    """{system call: what all must hold of its arguments}, for the process `pid`."""
    own = ArgumentRule(0, (pid,))
    no_emptying = (_TRUNCATE,), _ACCESS_MODE | _TRUNCATE
    return {
        "kill": (own,),
        "tgkill": (own,),
        "prlimit64": (ArgumentRule(0, (0, pid)),),
        "fcntl": (ArgumentRule(1, _FCNTL),),
        "ioctl": (ArgumentRule(1, _IOCTL),),
        # opening for reading empties a file with O_TRUNC, which landlock sees from its third version on only
        "open": (ArgumentRule(1, *no_emptying, is_negated=True),),
        "openat": (ArgumentRule(2, *no_emptying, is_negated=True),),
    }


Instruction = tuple[int, int, int, int]
"""(code, jump if true, jump if false, k) of classic BPF."""

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _KILL, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38
_X32 = 0x40000000


def filter_program(machine: str, pid: int) -> list[Instruction]:
    """The program of seccomp for a machine of MACHINES: a call that is not named here gives EPERM."""
    architecture, calls = MACHINES[machine]
    rules = argument_rules(pid)
    program: list[Instruction] = [
        *((_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)),
        *((_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)),
        *((_EQUAL, 0, 1, CLONE3), (_RETURN, 0, 0, _UNKNOWN)),
    ]
    for name, number in calls.items():
        body = [one for rule in rules.get(name, ()) for one in _checked(rule)]
        body.append((_RETURN, 0, 0, _ALLOW))
        program += [(_EQUAL, 0, len(body), number), *body]
    return [*program, (_RETURN, 0, 0, _REFUSE)]


def _checked(rule: ArgumentRule) -> list[Instruction]:
    """Goes on behind itself where the rule holds, else refuses."""
    load = [(_LOAD, 0, 0, 16 + 8 * rule.argument), (_AND, 0, 0, rule.mask)]
    refuse = (_RETURN, 0, 0, _REFUSE)
    after = range(len(rule.values) - 1, -1, -1)  # how many comparisons follow
    if rule.is_negated:
        tests = [(_EQUAL, left, 0 if left else 1, value) for left, value in zip(after, rule.values, strict=True)]
    else:
        tests = [(_EQUAL, left + 1, 0, value) for left, value in zip(after, rule.values, strict=True)]
    return [*load, *tests, refuse]
