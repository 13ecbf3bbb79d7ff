"""Proof, before code of answers runs for the first time in a process, that every barrier holds here.

Everything that must fail is tried inside (attempts.py); whatever succeeds refuses the sandbox, with its barrier's
name and the way to get it.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from raysft.errors import UserError
from raysft.sandbox.barriers import Limits
from raysft.sandbox.jail import ENVIRONMENT, TIME, NoStartError, judge, probe

_LANDLOCK = (
    "a kernel from 5.13 on with landlock in its `lsm=` list (`cat /sys/kernel/security/lsm`), and a container whose "
    "seccomp profile allows landlock_create_ruleset, as those of Docker 23 and containerd 1.7 do; gVisor has none"
)
_SECCOMP = "a kernel with CONFIG_SECCOMP_FILTER, and a container whose own profile allows prctl(PR_SET_SECCOMP)"
WAYS = {
    "machine": "Linux on x86-64 or 64-bit ARM",
    "landlock": _LANDLOCK,
    "files": _LANDLOCK,
    "secrets": _LANDLOCK,
    "seccomp": _SECCOMP,
    "network": _SECCOMP,
    "processes": _SECCOMP,
    "parent": _SECCOMP,
}
"""{barrier: what gives it}."""


@cache
def check_sandbox() -> None:
    """Raises UserError: a barrier does not hold on this machine, or nothing runs behind them. Takes 3 s, once."""
    limits = Limits(cpu_s=1)
    with tempfile.TemporaryDirectory(prefix="raysft-probe-") as own, tempfile.TemporaryDirectory() as directory:
        secret = Path(own, "secret")
        secret.write_text("nobody reads this", encoding="utf-8")
        facts = {
            "outside": str(secret),
            "directory": directory,
            "parent": str(os.getpid()),
            "environment": ",".join((*ENVIRONMENT, "HOME", "TMPDIR", "LD_LIBRARY_PATH")),
        }
        found = probe(facts, limits, directory)
        if "barrier" in found:
            raise _refused(found["barrier"], found["problem"])
        if "attempts" not in found:
            raise _refused("start", "a process behind the barriers did not come to its end")
        if found["attempts"]:
            barrier, what = found["attempts"][0]
            raise _refused(barrier, what)
        if secret.read_text(encoding="utf-8") != "nobody reads this":
            raise _refused("files", "a file outside the throw-away directory was changed")
    try:
        right = judge("def one():\n    return 1", "assert one() == 1")
        endless = judge("while True:\n    pass", "assert one() == 1", limits=limits)
    except NoStartError as error:
        raise _refused(*error.args) from None
    if not right.passed:
        raise _refused("start", f"a right answer did not pass: {right.kind}, {right.why}")
    if endless.kind != TIME:
        raise _refused("limits", f"an endless loop was not ended by the limit of time: {endless.kind}")


def _refused(barrier: str, problem: str) -> UserError:
    return UserError(
        f"code of answers is not run on this machine: the barrier `{barrier}` does not hold",
        got=problem,
        expected=WAYS.get(barrier, "a sandbox whose every barrier holds"),
        fix="evaluate where it holds, or leave passes_tests out of evaluate.sets",
    )
